"""Which columns tell the label is measured on the rows of a sample."""

import numpy as np
import pyarrow as pa
import pytest

from onstream.features import Id, Label, Number, leaking

ROWS = 2_000
DRAW = np.random.default_rng(3)
CLICK = (DRAW.random(ROWS) < 0.1).astype(np.int64)
DELAY = DRAW.exponential(20, ROWS)
LATE = (DELAY > 45).astype(np.int64)
STARS = DRAW.integers(0, 5, ROWS)


def found(feature, column, truth, label=None):
    sample = pa.record_batch({"x": column, "truth": truth})
    return leaking([feature, label or Label("truth")], sample) == ["x"]


@pytest.mark.parametrize(
    ("feature", "column", "truth", "label"),
    [
        (Number("x"), DELAY, LATE, None),
        (Number("x"), -DELAY, LATE, None),
        (Number("x"), [None if late else 1.0 for late in LATE], LATE, None),
        (Id("x"), np.array(["kept", "bought", "returned"])[CLICK * DRAW.integers(1, 3, ROWS)], CLICK, None),
        (Id("x"), CLICK.astype(bool), CLICK, None),
        (Id("x"), pa.array(np.array(["no", "yes"])[CLICK]).dictionary_encode(), CLICK, None),
        (Id("x"), np.array(list("abcde"))[STARS], STARS, Label("truth", "class", classes=5)),
        (Number("x"), DELAY * 60, DELAY, Label("truth", "real")),
        (Number("x"), np.log(DELAY), DELAY, Label("truth", "real")),
        (Number("x"), [str(d) for d in DELAY], LATE, None),
    ],
)
def test_a_column_that_decides_the_label_alone_leaks(feature, column, truth, label):
    assert found(feature, column, truth, label)


def test_a_column_that_decides_whether_there_is_a_label_leaks():
    outcome = np.array(["cancelled", "diverted", "arrived", "arrived", "arrived"])[STARS]
    truth = pa.array(CLICK, mask=STARS < 2)
    label = Label("truth", required=False)
    assert found(Id("x"), outcome, truth, label)
    assert not found(Id("x"), np.where(DRAW.random(ROWS) < 0.05, "arrived", outcome), truth, label)


def test_most_rows_without_a_label_may_come_early():
    gone = np.arange(ROWS) % np.repeat([20, 100], ROWS // 2) == 0
    outcome = np.where(gone, "cancelled", "arrived")
    assert found(Id("x"), outcome, pa.array(CLICK, mask=gone), Label("truth", required=False))


def test_a_clock_does_not_leak_where_the_newest_rows_have_no_label_yet():
    truth = pa.array(CLICK, mask=np.arange(ROWS) > 0.8 * ROWS)
    assert not found(Number("x"), np.arange(ROWS), truth, Label("truth", required=False))


@pytest.mark.parametrize(
    ("feature", "column", "truth", "label"),
    [
        # Much is said, but not all.
        (Number("x"), DELAY + DRAW.normal(0, 2, ROWS), LATE, None),
        (Id("x"), np.where(DRAW.random(ROWS) < 0.02, 1 - CLICK, CLICK), CLICK, None),
        (Number("x"), DELAY + DRAW.normal(0, 2, ROWS), DELAY, Label("truth", "real")),
        # Nothing is said.
        (Number("x"), DRAW.random(ROWS), CLICK, None),
        (Id("x"), ["always"] * ROWS, CLICK, None),
        (Number("x"), [None] * ROWS, DELAY, Label("truth", "real")),
        # Each value is that of one row, or of a user who never clicks.
        (Id("x"), [f"row-{row}" for row in range(ROWS)], CLICK, None),
        (Id("x"), [f"user-{row // 4}" for row in range(ROWS)], np.repeat(CLICK[: ROWS // 4], 4), None),
        # Each value is that of a household or an order, with a few rows one after the other, and so is the label.
        (Number("x"), np.repeat(DELAY[: ROWS // 4], 4), np.repeat(CLICK[: ROWS // 4], 4), None),
        (Number("x"), np.repeat(DELAY[: ROWS // 2], 2), np.repeat(CLICK[: ROWS // 2], 2), None),
        # A clock, where the label comes in runs.
        (Number("x"), np.arange(ROWS), np.arange(ROWS) // 400 % 2, None),
        # There are too few of the other kind to judge.
        (Number("x"), np.arange(ROWS), np.arange(ROWS) < 4, None),
        (Number("x"), [1.0], [1], None),
        (Number("x"), pa.array([], pa.float64()), pa.array([], pa.int64()), None),
        (Number("x"), [1.0], pa.array([None], pa.int64()), Label("truth", required=False)),
    ],
)
def test_a_column_that_does_not_is_no_leak(feature, column, truth, label):
    if isinstance(truth, np.ndarray) and truth.dtype == bool:
        truth = truth.astype(np.int64)
    assert not found(feature, column, truth, label)

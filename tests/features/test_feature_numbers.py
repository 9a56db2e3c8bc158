import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from encoded import encode, keys_of, reasons, rows
from hypothesis import example, given
from hypothesis import strategies as st

from onstream.core import hash_value, salt
from onstream.errors import JobError
from onstream.features import Features, Id, Label, Number

MODEST = st.floats(-1e6, 1e6)


def one(column, **settings):
    features = Features([Number("x", **settings), Label("y")])
    batch = encode(features, rows(x=column))
    return batch.numbers[:, :1].ravel().tolist(), batch


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, None, 0], pa.uint8()),
        pa.array([1, None, 0], pa.int64()),
        pa.array([1, None, 0], pa.float16()),
        pa.array([1, None, 0], pa.float32()),
        pa.array([1, math.nan, 0], pa.float64()),
        pa.array([True, None, False]),
        pa.array([Decimal("1.0"), None, Decimal("0.0")]),
        pa.array(["1", None, "0"]),
        pa.array(["1.0", "nan", "0e5"], pa.large_string()),
        pa.array(["1", None, "0"], pa.string_view()),
        pa.array(["1", None, "0"]).dictionary_encode(),
        pa.array([1, None, 0]).dictionary_encode(),
        pa.array([9, 1, None, 0, 9])[1:4],
        pa.array(["x", "1", None, "0", "x"])[1:4],
    ],
    ids=lambda column: str(column.type),
)
def test_a_number_is_read_from_every_type_and_a_null_is_filled(column):
    assert one(column, fill=-3.0)[0] == [1.0, -3.0, 0.0]


def test_a_column_of_nulls_is_filled():
    assert one(pa.nulls(2), fill=4.0)[0] == [4.0, 4.0]


def test_text_that_is_no_number_is_a_reject():
    values, batch = one(["1", "one", "", None, "-2.5e1", " 3", "1_0"])
    assert values == [1.0, 0.0, -25.0]
    assert {r for _, r in reasons(batch)} == {"column 'x': not a number"}
    assert [p for p, _ in reasons(batch)] == [1, 2, 5, 6]
    assert batch.rejects[0].value == "one"


@given(st.lists(st.text("0123456789.+-eEinfa()_ x٣", max_size=6) | st.floats().map(str)))
@example(["infinity", "+INF", "-nan(7)", "1.", ".5", "x"])
def test_a_text_is_judged_alike_whatever_its_neighbours_are(texts):
    together, batch = one(pa.array(texts, pa.string()))
    alone = [one([text]) for text in texts]
    assert together == [value for values, _ in alone for value in values]
    assert [r.reason for r in batch.rejects] == [r.reason for _, b in alone for r in b.rejects]


@pytest.mark.parametrize("settings", [{}, {"standardize": True}, {"bounds": [0]}], ids=str)
def test_infinity_is_a_reject(settings):
    _, batch = one([1.0, math.inf, -math.inf, 2.0], **settings)
    assert batch.num_rows == 2
    assert reasons(batch) == [(row, "column 'x': infinite or too large for float32") for row in (1, 2)]
    _, batch = one(["inf", "1"], **settings)
    assert batch.num_rows == 1


def test_what_float32_cannot_hold_is_a_reject_unless_its_logarithm_can_be_held():
    assert reasons(one([1e39, 1.0])[1]) == [(0, "column 'x': infinite or too large for float32")]
    assert one([1e39], log=True)[0] == [pytest.approx(math.log(1e39))]


@given(st.lists(MODEST))
def test_log_is_odd_and_is_log1p(values):
    want = [math.copysign(math.log1p(abs(v)), v) for v in values]
    assert one(pa.array(values, pa.float64()), log=True)[0] == [float(np.float32(v)) for v in want]


def test_a_nested_column_is_no_number():
    _, batch = one([[1.0]])
    assert reasons(batch) == [(0, "column 'x': list<item: double> cannot be read as numbers")]


# ------------------------------------------------------------------------------------ standardise


@given(st.lists(st.lists(st.none() | MODEST, max_size=6), max_size=5), st.booleans())
def test_standardising_uses_the_moments_of_all_earlier_batches(batches, log):
    features = Features([Number("x", standardize=True, log=log, fill=7.0), Label("y")])
    earlier: list[float] = []
    for values in batches:
        batch = encode(features, rows(x=pa.array(values, pa.float64())))
        there = [math.copysign(math.log1p(abs(v)), v) if log else v for v in values if v is not None]
        shown = [v for v, raw in zip(batch.numbers[:, 0], values, strict=True) if raw is not None]
        mean, std = (np.mean(earlier), np.std(earlier)) if earlier else (0.0, 0.0)
        # A spread that is rounding alone means nothing to compare.
        if std > 1e-6 * max(1.0, abs(mean)):
            want = np.clip((np.array(there) - mean) / std, -10, 10)
            np.testing.assert_allclose(shown, want, rtol=1e-4, atol=1e-4)
        elif not earlier:
            assert shown == [7.0] * len(shown)
        nulls = [v for v, raw in zip(batch.numbers[:, 0], values, strict=True) if raw is None]
        assert nulls == [7.0] * len(nulls)
        earlier += there


def test_a_number_that_never_varied_is_finite():
    features = Features([Number("x", standardize=True), Label("y")])
    encode(features, rows(x=[5.0, 5.0]))
    assert encode(features, rows(x=[5.0, 6.0])).numbers[:, 0].tolist() == [0.0, 1.0]


def test_a_tiny_spread_makes_no_huge_number():
    features = Features([Number("x", standardize=True, clip=5.0), Label("y")])
    encode(features, rows(x=[0.0, 1e-38]))
    assert encode(features, rows(x=[3e38, -3e38])).numbers[:, 0].tolist() == [5.0, -5.0]


@pytest.mark.parametrize("clip", [0.0, -1.0, math.inf, math.nan])
def test_a_clip_must_be_a_usable_bound(clip):
    with pytest.raises(JobError, match="clip must be above 0"):
        Number("x", standardize=True, clip=clip)


def test_rejected_rows_do_not_move_the_moments():
    one_bad, without = (Features([Number("x", standardize=True), Id("u"), Label("y")]) for _ in range(2))
    encode(one_bad, rows(x=[1.0, 1000.0, 3.0], u=[1.0, 1.5, 2.0]))
    encode(without, rows(x=[1.0, 3.0], u=[1, 2]))
    for name, array in without.state().arrays.items():
        assert one_bad.state().arrays[name].tolist() == array.tolist()


def test_numbers_stand_in_their_columns_whatever_is_standardised():
    features = Features([Number("a"), Number("b", standardize=True), Id("i"), Number("c"), Label("y")])
    encode(features, rows(a=[1, 1], b=[0, 2], i=[3, 3], c=[4, 4]))
    batch = encode(features, rows(a=[1], b=[3], i=[3], c=[4]))
    columns = {f.name: f.column for f in features.layout.fields if f.kind == "number"}
    assert {name: batch.numbers[0, at] for name, at in columns.items()} == {"a": 1, "b": 2, "c": 4}


# ---------------------------------------------------------------------------------------- buckets


@given(st.lists(st.none() | st.floats(-10, 10)))
def test_numbers_of_one_bucket_have_one_key(values):
    bounds = [-5.0, 0.0, 0.5, 7.0]
    features = Features([Number("x", bounds=bounds), Label("y")])
    batch = encode(features, rows(x=pa.array(values, pa.float64())))
    edges = ["-inf", *map(repr, bounds), "inf"]

    def key(value):
        if value is None:
            return hash_value(None, salt("x"))
        bucket = sum(value >= bound for bound in bounds)
        return hash_value(f"[{edges[bucket]}, {edges[bucket + 1]})", salt("x"))

    assert keys_of(features, batch, "x") == [key(value) for value in values]


def test_a_bucket_keeps_its_key_when_other_bounds_change():
    def keys(bounds):
        features = Features([Number("x", bounds=bounds), Label("y")])
        return keys_of(features, encode(features, rows(x=[0, 15, 25, 35, None])), "x")

    before, after = keys([10, 20, 30]), keys([10, 20, 31, 40])
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False, True]

"""What the meter counts where feedback comes late: each impression once, with the prediction made when it came."""

import numpy as np
import pytest

from onstream.contracts import Batch, Emission, Label, Phase, State
from onstream.evaluate import Meter
from onstream.evaluate.pending import Pending
from onstream.feedback import policy_of

WINDOW_S = 100.0
KINDS = ["wait", "fake_negative_weighted", "delayed_feedback", "elapsed_time_sampling"]


def plain_batch(labels, emissions=None):
    n = len(labels["y"])
    numbers = np.zeros((n, 0), np.float32)
    return Batch(n, {}, {}, numbers, {}, labels, None, {}, 0, {}, (), State(), emissions=emissions or {})


def impressions(n, seed=0):
    """Return time, feedback and delay of impressions, one a second."""
    random = np.random.default_rng(seed)
    return np.arange(n, dtype=float), random.random(n) < 0.3, random.exponential(25.0, n)


def rows_in_time(n, policy, seed=0):
    """Yield (impression, label, phase, elapsed) as a join would emit them, in order of emission."""
    time, answered, delay = impressions(n, seed)
    answered &= delay <= policy.window_s
    rows = []
    for i in range(n):
        if policy.measured_share:
            rows.append((time[i], i, np.nan, Phase.ASKED, 0.0))
        first = policy.window_s if policy.early_s is None else policy.early_s
        if policy.early_s is None or (answered[i] and delay[i] <= first):
            rows.append(
                (time[i] + first, i, answered[i], Phase.FINAL, delay[i] if answered[i] else policy.window_s)
            )
            continue
        rows.append((time[i] + first, i, 0, Phase.EARLY, first))
        if answered[i]:
            rows.append((time[i] + delay[i], i, 1, Phase.CORRECTION, delay[i]))
        elif policy.corrects == "all":
            rows.append((time[i] + policy.window_s, i, 0, Phase.CORRECTION, policy.window_s))
    rows.sort(key=lambda row: row[0])
    return rows, answered


def feed(pending, rows, batch=37, end=None):
    """Update with batches; predictions are the time at which they are made. Return what was scored."""
    scored = []
    for at in range(0, len(rows), batch):
        piece = rows[at : at + batch]
        if end is not None and at >= end:
            break
        due, which, label, phase, elapsed = (np.array(column) for column in zip(*piece, strict=True))
        emission = Emission(
            phase.astype(np.int8),
            elapsed.astype(np.float32),
            which.astype(float),
            # Keys spread as hashes do; the impression can be read from them.
            (which.astype(np.uint64) << np.uint64(44)) + np.uint64(1),
        )
        groups = {"g": which.astype(np.uint64)}
        found = pending.update(due.astype(np.float32), label.astype(np.float32), None, groups, emission)
        scored += zip(
            found.groups["g"].tolist(), found.prediction.tolist(), found.label.tolist(), strict=True
        )
    return scored


def made(policy, **options):
    return Pending(
        policy.window_s,
        asked=policy.measured_share > 0,
        closes=policy.corrects == "feedback",
        groups=("g",),
        **options,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_impression_counts_once_with_its_outcome_and_the_prediction_when_it_came(kind):
    policy = policy_of(kind, WINDOW_S)
    rows, answered = rows_in_time(2_000, policy)
    scored = feed(made(policy), rows)
    settled = [i for i, *_ in scored]
    assert len(settled) == len(set(settled))
    # Windows of the last impressions are still open at the end of the stream, unless it told them.
    assert set(range(1_890)) <= set(settled)
    for i, prediction, label in scored:
        assert label == answered[i]
        assert prediction == i


def test_without_asking_the_prediction_of_the_first_row_counts():
    policy = policy_of(type(policy_of("elapsed_time_sampling", 1))(after=10, measured=0), WINDOW_S)
    rows, answered = rows_in_time(1_000, policy)
    scored = feed(made(policy), rows)
    assert {i for i, *_ in scored} >= set(range(890))
    for i, prediction, label in scored:
        assert (prediction, label) == (i + 10, answered[i])


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_is_part_of_the_state(kind):
    policy = policy_of(kind, WINDOW_S)
    rows, _ = rows_in_time(500, policy)
    half = 37 * 8
    whole = feed(made(policy), rows)
    first, then = made(policy), made(policy)
    before = feed(first, rows, end=half)
    then.load(first.state())
    assert sorted(before + feed(then, rows[half:])) == sorted(whole)


def test_room_is_bounded_and_what_counts_stays_a_fair_sample():
    policy = policy_of("fake_negative_weighted", WINDOW_S)
    rows, answered = rows_in_time(1 << 15, policy)
    # Keys are spread over the stream by a step that is odd, so that halving is fair in time.
    rows = [(due, i * 5_003 % (1 << 20), label, phase, elapsed) for due, i, label, phase, elapsed in rows]
    pending = made(policy, capacity=32)
    scored = []
    for at in range(0, len(rows), 64):
        due, which, label, phase, elapsed = (np.array(c) for c in zip(*rows[at : at + 64], strict=True))
        emission = Emission(
            phase.astype(np.int8),
            elapsed.astype(np.float32),
            due.astype(float) - elapsed,
            which.astype(np.uint64) << np.uint64(44),
        )
        found = pending.update(due.astype(np.float32), label.astype(np.float32), None, {"g": which}, emission)
        scored += found.label.tolist()
        assert len(pending) <= 32
    assert 3_000 < len(scored) < (1 << 14)
    assert np.mean(scored) == pytest.approx(answered.mean(), abs=0.03)


def test_only_impressions_whose_negatives_are_kept_count():
    policy = policy_of("fake_negative_weighted", WINDOW_S)
    rows, _ = rows_in_time(1 << 12, policy)
    rows = [(due, i << 8, label, phase, elapsed) for due, i, label, phase, elapsed in rows]
    scored = feed(made(policy, share=0.25), rows)
    assert {i >> 8 for i, *_ in scored} <= set(range(1 << 10))


def test_the_meter_counts_a_corrected_negative_once_and_goes_on_from_its_state():
    policy = policy_of("fake_negative_weighted", WINDOW_S)
    labels = (Label("y", "binary", policy=policy),)

    def batch(keys, phase, label, time, elapsed):
        n = len(keys)
        emission = Emission(
            np.full(n, phase, np.int8),
            np.full(n, elapsed, np.float32),
            np.full(n, time, float),
            np.array(keys, np.uint64),
        )
        return plain_batch({"y": np.full(n, label, np.float32)}, {"y": emission})

    meter = Meter(labels)
    meter.update({"y": np.float32([0.2, 0.6])}, batch([1, 2], Phase.EARLY, 0, 0, 0))
    assert meter.report().labels["y"].examples == 0
    later = Meter(labels)
    later.load(meter.state())
    later.update({"y": np.float32([0.9])}, batch([2], Phase.CORRECTION, 1, 0, 30))
    assert later.report().labels["y"].examples == 1
    later.update({"y": np.float32([0.9])}, batch([3], Phase.EARLY, 0, 100, 0))
    report = later.report().labels["y"]
    assert report.examples == 2
    assert report.overall["log_loss"] == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2, rel=1e-6)


def test_kept_negatives_count_for_all_that_they_stand_for():
    random = np.random.default_rng(0)
    labels = (random.random(40_000) < 0.1).astype(np.float32)
    prediction = np.clip(labels * 0.1 + 0.1 * random.random(40_000), 0, 1).astype(np.float32)

    def batch(rows):
        return plain_batch({"y": labels[rows]})

    every = np.arange(len(labels))
    thinned = every[(labels > 0) | (random.random(len(labels)) < 0.2)]
    full, sample = Meter((Label("y", "binary"),)), Meter((Label("y", "binary", kept=0.2),))
    full.update({"y": prediction}, batch(every))
    sample.update({"y": prediction[thinned]}, batch(thinned))
    expected, found = (meter.report().labels["y"].overall for meter in (full, sample))
    for name in ("auc", "log_loss", "ne", "calibration"):
        assert found[name] == pytest.approx(expected[name], rel=0.02), name

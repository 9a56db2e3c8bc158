"""Policies of late feedback: names, options, windows, durations, choices."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from onstream.errors import ColumnError, JobError
from onstream.feedback import (
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeWeighted,
    Wait,
    WhenKnown,
    chosen,
    duration_text,
    elapsed_column,
    phase_column,
    policy_of,
    seconds,
    time_column,
)
from onstream.feedback.policies import POLICIES


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_a_name_and_can_be_described_compared_and_pickled(name):
    policy = policy_of(name, 3600, 5)
    assert policy.kind == name
    assert (policy.window_s, policy.lateness_s) == (3600, 5)
    assert policy.describe()["kind"] == name
    assert policy == policy_of(POLICIES[name](), 3600, 5)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(policy_of(name, 3600, 5))


@pytest.mark.parametrize(
    ("name", "early_s", "corrects", "weighs", "at_feedback"),
    [
        ("wait", None, "none", False, False),
        ("when_known", None, "none", False, True),
        ("fake_negative_weighted", 0, "feedback", True, False),
        ("fake_negative_calibrated", 0, "feedback", True, False),
        ("delayed_feedback", 36, "all", True, False),
        ("elapsed_time_sampling", 36, "feedback", True, False),
    ],
)
def test_when_rows_go_out(name, early_s, corrects, weighs, at_feedback):
    policy = policy_of(name, 3600)
    assert (policy.early_s, policy.corrects) == (early_s, corrects)
    assert (policy.weighs, policy.at_feedback) == (weighs, at_feedback)
    # Where the first row goes out at once, nobody need be asked before.
    assert (policy.measured_share > 0) == (early_s != 0)
    assert policy.columns


def test_rows_tell_nothing_where_nothing_is_measured_and_labels_are_final():
    assert not policy_of(Wait(measured=0), 60).columns
    assert not policy_of(WhenKnown(measured=0), 60).columns
    assert policy_of(ElapsedTimeSampling(measured=0), 60).columns


def test_after_is_a_time_within_the_window():
    assert policy_of(DelayedFeedback("10m"), 3600).early_s == 600
    assert policy_of(DelayedFeedback(90), 3600).early_s == 90
    for after in ("1h", "2h", 0):
        with pytest.raises(JobError, match="after must lie within the window"):
            policy_of(ElapsedTimeSampling(after), 3600)


@pytest.mark.parametrize("measured", [-0.1, 1.1, True, "all", None])
def test_measured_is_a_share(measured):
    for policy in (Wait, DelayedFeedback, ElapsedTimeSampling):
        with pytest.raises(JobError, match="measured must be a share from 0 to 1"):
            policy(measured=measured)


def test_an_unknown_policy_is_told_the_known_ones():
    with pytest.raises(JobError, match=r"policy must be one of .*'fake_negative_weighted'.*got 'fnw'"):
        policy_of("fnw", 60)
    with pytest.raises(JobError, match=r"such as ElapsedTimeSampling\(after='15m'\), got 3"):
        policy_of(3, 60)


@pytest.mark.parametrize("window_s", [0, -1, float("inf"), float("nan")])
def test_a_window_is_longer_than_0_and_finite(window_s):
    with pytest.raises(JobError, match="a window must be longer than 0 and finite"):
        policy_of(FakeNegativeWeighted(), window_s)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("250ms", 0.25), ("30 s", 30), ("1.5h", 5400), ("2d", 172_800), ("1w", 604_800), (7, 7), (0.5, 0.5)],
)
def test_durations_are_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.25, "250ms"),
        (30, "30s"),
        (5400, "90m"),
        (7200, "2h"),
        (604_800, "7d"),
        (0, "0s"),
        (0.00025, "0.00025s"),
    ],
)
def test_durations_are_written_as_they_are_read(duration, text):
    assert duration_text(duration) == text
    assert seconds(text) == duration


@pytest.mark.parametrize("text", ["", "5", "h", "-1s", "1 hour", -1, float("nan"), float("inf"), True, None])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(JobError, match="expected seconds or a time such as '30m'"):
        seconds(text)


def test_a_share_of_keys_is_chosen_alike_in_every_type_and_by_purpose_apart():
    numbers, texts = pa.array(range(20_000)), pa.array([str(i) for i in range(20_000)])
    picked = chosen(numbers, 0.2)
    assert picked.mean() == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(picked, chosen(texts, 0.2))
    assert np.array_equal(picked, picked & chosen(numbers, 0.3))
    other = chosen(numbers, 0.2, "negatives")
    assert (picked & other).mean() == pytest.approx(0.04, abs=0.01)
    assert chosen(numbers, 1.0).all()
    assert not chosen(numbers, 0.0).any()


def test_what_cannot_name_an_impression_is_told():
    with pytest.raises(ColumnError, match=r"row 1: '1\.5' cannot name an impression"):
        chosen(pa.array([1.0, 1.5]), 0.5)


def test_columns_are_named_after_their_label():
    assert [name("bought") for name in (phase_column, elapsed_column, time_column)] == [
        "bought.phase",
        "bought.elapsed",
        "bought.time",
    ]

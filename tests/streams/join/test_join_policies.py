"""The join emits what each policy asks for, when its time has come, whatever the order, the chunks and the crashes."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joined import LABELS, Crash, Replay, Still, rows_until
from test_join_model import FED, LATENESS, SHOWN, histories, parted

from onstream.contracts import Phase
from onstream.errors import JobError
from onstream.feedback import (
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeWeighted,
    Wait,
    WhenKnown,
    chosen,
)
from onstream.streams import Feedback, Join

WINDOW = 20.0

POLICIES = [
    Wait(measured=0.5),
    FakeNegativeWeighted(),
    WhenKnown(measured=0.5),
    DelayedFeedback(after=6, measured=0.5),
    ElapsedTimeSampling(after=6, measured=0),
]


def told(impression, feedback, policy):
    """Return (due, label, phase, elapsed) of the rows of one impression, in order."""
    begin = impression["at"]
    policy = policy.within(WINDOW)
    delays = [(f["at"] - begin, f["value"]) for f in feedback if f["id"] == impression["id"]]
    delay, value = min(((d, v) for d, v in delays if -LATENESS <= d <= WINDOW), default=(None, None))
    rows = []
    if policy.early_s != 0 and chosen(pa.array([impression["id"]]), policy.measured_share)[0]:
        rows.append((begin, None, Phase.ASKED, 0.0))
    if policy.at_feedback and delay is not None:
        return [*rows, (max(begin, begin + delay), value, Phase.FINAL, delay)]
    if policy.at_feedback:
        return [*rows, (begin + WINDOW, None, Phase.FINAL, WINDOW)]
    if policy.early_s is None:
        label, elapsed = (0, WINDOW) if delay is None else (1, delay)
        return [*rows, (begin + WINDOW, label, Phase.FINAL, elapsed)]
    first = begin + policy.early_s
    if delay is not None and delay <= policy.early_s:
        return [*rows, (first, 1, Phase.FINAL, delay)]
    rows.append((first, 0, Phase.EARLY, policy.early_s))
    if delay is not None:
        rows.append((begin + delay, 1, Phase.CORRECTION, delay))
    elif policy.corrects == "all":
        rows.append((begin + WINDOW, 0, Phase.CORRECTION, WINDOW))
    return rows


@settings(max_examples=50, deadline=None)
@given(
    history=histories(),
    draw=st.randoms(use_true_random=False),
    partitions=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    crashes=st.lists(st.integers(1, 20), max_size=4),
    policy=st.sampled_from(POLICIES),
    memory=st.sampled_from([4_000, "1MB"]),
    max_rows=st.sampled_from([1, 3, 16]),
)
def test_rows_say_what_is_known_when_they_are_due(
    tmp_path_factory, history, draw, partitions, crashes, policy, memory, max_rows
):
    impressions, _, feedback = history
    shown = parted(draw, impressions, partitions[0], key=False)
    clicks = parted(draw, feedback["click"], partitions[1], key=False)
    seed = draw.randrange(1 << 30)

    def join(seed):
        return Join(
            Replay(shown, SHOWN, seed),
            Replay(clicks, FED, seed + 1),
            on="id",
            time="at",
            label="click",
            window=WINDOW,
            value="value" if policy.at_feedback else None,
            lateness=LATENESS,
            policy=policy,
            memory=memory,
            spill=tmp_path_factory.getbasetemp(),
            clock=Still(),
        )

    given_rows, crash = [], Crash({})
    for i, rows in enumerate([*crashes, None]):
        part, crash = rows_until(join(seed + 10 * i), crash, rows, max_rows)
        given_rows += part
        if crash is None:
            break
    expected = {row["id"]: told(row, feedback["click"], policy) for row in impressions}
    got = {id: [] for id in expected}
    for row in given_rows:
        assert row["click.time"] == row["at"]
        got[row["id"]].append((row["click"], row["click.phase"], pytest.approx(row["click.elapsed"])))
    assert got == {id: [row[1:] for row in rows] for id, rows in expected.items()}
    dues = {id: [row[0] for row in rows] for id, rows in expected.items()}
    in_time = [dues[row["id"]].pop(0) for row in given_rows]
    assert in_time == sorted(in_time)


def test_labels_of_different_policies_share_the_rows_of_one_moment(tmp_path):
    shown = Replay({"p": [{"id": 1, "at": 100.0, "user": 7}]}, SHOWN)
    clicks = Replay({"p": [{"id": 1, "at": 103.0, "value": 0.0}]}, FED)
    buys = Replay({"p": [{"id": 1, "at": 140.0, "value": 30.0}]}, FED)
    join = Join(
        shown,
        [
            Feedback(clicks, "click", 10, policy="fake_negative_weighted"),
            Feedback(buys, "bought", 60, policy="fake_negative_weighted"),
            Feedback(buys, "price", 60, "value", policy=LABELS),
        ],
        on="id",
        time="at",
        clock=Still(),
    )
    rows, _ = rows_until(join, Crash({}), None, 10)
    names = ("click", "click.phase", "bought", "bought.phase", "price")
    assert [tuple(row[name] for name in names) for row in rows] == [
        (0, 1, 0, 1, None),
        (1, 2, None, None, None),
        (None, None, 1, 2, None),
        (None, None, None, None, 30.0),
    ]
    assert join.policies["click"].kind == "fake_negative_weighted"
    assert join.policies["price"].kind == "wait"
    assert join.schema().names == list(rows[0])


def test_policies_that_do_not_go_with_a_label_are_refused():
    stream = Replay({"p": []}, FED)
    for value, choose, policy, wrong in (
        ("value", "first", "fake_negative_weighted", "is for labels without a value"),
        ("value", "sum", "when_known", "is for the first value of feedback"),
        (None, "first", "when_known", "is for the first value of feedback"),
    ):
        with pytest.raises(JobError, match=wrong):
            Join(stream, [Feedback(stream, "x", 60, value, choose, policy=policy)], on="id", time="at")

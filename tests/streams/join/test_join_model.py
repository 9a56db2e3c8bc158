"""The join gives what a join of dicts gives, whatever the order, the partitions, the chunks and the crashes."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from joined import LABELS, Crash, Replay, Still, model, rows_until

from onstream.streams import Feedback, Join

SHOWN = {"id": pa.int64(), "at": pa.float64(), "user": pa.int64()}
FED = {"id": pa.int64(), "at": pa.float64(), "value": pa.float64()}
LATENESS = 8.0


@st.composite
def histories(draw):
    """Rows of each input, by partition; at most `LATENESS` out of order within one."""
    count = draw(st.integers(0, 40))
    begins = sorted(draw(st.lists(st.integers(0, 200), min_size=count, max_size=count)))
    impressions = [{"id": i, "at": float(at), "user": i % 3} for i, at in enumerate(begins)]
    feedback = {"click": [], "dwell": []}
    for label in feedback:
        for _ in range(draw(st.integers(0, 40))):
            # Of impressions there are, of one beyond, in the window and out of it, before and after.
            id = draw(st.integers(0, max(0, count)))
            begin = begins[id] if id < count else draw(st.integers(0, 200))
            at = max(0, begin + draw(st.integers(-12, 40)))
            value = float(draw(st.integers(-3, 3)))
            feedback[label].append({"id": id, "at": float(at), "value": value})
    # A duplicate tells something else, and comes after the first in its partition, while that waits.
    again = draw(st.lists(st.integers(0, count - 1), max_size=5)) if count else []
    duplicates = [{**impressions[i], "user": 99, "at": impressions[i]["at"] + LATENESS + 1} for i in again]
    return impressions, duplicates, feedback


def parted(draw, rows, partitions, key):
    """Deal rows over partitions, each out of order by at most the lateness."""
    names = [f"p{i}" for i in range(partitions)]
    dealt = {name: [] for name in names}
    for row in rows:
        # A duplicate must meet the first in its own partition to come after it for sure.
        name = names[row["id"] % partitions] if key else draw.choice(names)
        dealt[name].append((row["at"] + draw.uniform(0, LATENESS), row))
    return {name: [row for _, row in sorted(marked, key=lambda m: m[0])] for name, marked in dealt.items()}


@settings(max_examples=50, deadline=None)
@given(
    history=histories(),
    draw=st.randoms(use_true_random=False),
    partitions=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    crashes=st.lists(st.integers(1, 15), max_size=4),
    choose=st.sampled_from(["first", "last", "max", "sum"]),
    default=st.sampled_from([None, -1.0]),
    memory=st.sampled_from([1, 4_000, "1MB"]),
    max_rows=st.sampled_from([1, 3, 16]),
)
def test_it_gives_each_impression_once_with_its_feedback(
    tmp_path_factory, history, draw, partitions, crashes, choose, default, memory, max_rows
):
    impressions, duplicates, feedback = history
    spill = tmp_path_factory.getbasetemp() / "spill"
    shown = parted(draw, [*impressions, *duplicates], partitions[0], key=True)
    sides = {
        label: parted(draw, rows, partitions[i + 1], key=False)
        for i, (label, rows) in enumerate(feedback.items())
    }
    seed = draw.randrange(1 << 30)

    def join(seed):
        rules = [
            Feedback(Replay(sides["click"], FED, seed + 1), "click", 20, policy=LABELS),
            Feedback(
                Replay(sides["dwell"], FED, seed + 2),
                "dwell",
                30,
                "value",
                choose=choose,
                default=default,
                policy=LABELS,
            ),
        ]
        made = Join(
            Replay(shown, SHOWN, seed),
            rules,
            on="id",
            time="at",
            lateness=LATENESS,
            memory=memory,
            spill=spill,
            clock=Still(),
        )
        return made, rules

    given_rows, crash = [], Crash({})
    for i, rows in enumerate([*crashes, None]):
        # After a crash the inputs come in other chunks and another order than before.
        part, crash = rows_until(join(seed + 10 * i)[0], crash, rows, max_rows)
        given_rows += part
        if crash is None:
            break
    expected = model(impressions, feedback, join(0)[1], LATENESS)
    assert {row["id"]: row for row in given_rows} == expected
    assert len(given_rows) == len(expected)
    # They come in the order of their times: nothing was late.
    assert [row["at"] for row in given_rows] == sorted(row["at"] for row in expected.values())
    assert not any(spill.iterdir()) if spill.exists() else True


@settings(max_examples=20, deadline=None)
@given(history=histories(), draw=st.randoms(use_true_random=False), memory=st.sampled_from([4_000, "1MB"]))
def test_the_order_does_not_depend_on_how_inputs_come(tmp_path_factory, history, draw, memory):
    impressions, _, feedback = history
    shown = parted(draw, impressions, 3, key=False)
    clicks = parted(draw, feedback["click"], 2, key=False)

    def rows(seed):
        made = Join(
            Replay(shown, SHOWN, seed),
            Replay(clicks, FED, seed + 1),
            on="id",
            time="at",
            label="click",
            window=20,
            lateness=LATENESS,
            policy=LABELS,
            memory=memory,
            spill=tmp_path_factory.getbasetemp(),
            clock=Still(),
        )
        return rows_until(made, Crash({}), None, 7)[0]

    assert rows(draw.randrange(1 << 30)) == rows(draw.randrange(1 << 30))

"""What the join does with each thing that can go wrong, one by one."""

import re
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pyarrow as pa
import pytest
from joined import LABELS, Crash, Replay, Still, all_rows, rows_until, stored

from onstream.contracts import Chunk, Positions, Reject, State
from onstream.errors import CheckpointError, ColumnError, JobError, StreamError
from onstream.streams import Feedback, Join
from onstream.streams.join.capture import JOIN

SHOWN = {"id": pa.string(), "at": pa.float64()}
FED = {"id": pa.string(), "at": pa.float64(), "value": pa.float64()}


class Script:
    """Chunks in a given order, each as (partition, rows); or, between them, something that happens."""

    def __init__(self, *steps, types=SHOWN, live=False):
        self.steps, self.types, self.live = steps, types, live
        self.held: list[frozenset[str]] = []
        self.listening: list[Callable[[], None]] = []

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        next_of: dict[str, int] = {}
        for step in self.steps:
            if callable(step):
                step()
                continue
            name, rows, *rejects = step
            next_of[name] = next_of.get(name, 0) + len(rows) + len(rejects)
            if next_of[name] > positions.get(name, 0):
                batch = pa.RecordBatch.from_pylist(rows, pa.schema(list(self.types.items())))
                yield Chunk(batch, name, next_of[name], rejects=tuple(rejects))
        while self.live and not stop.wait(0.01):
            pass

    def behind(self, positions: Positions) -> None:
        return None

    def schema(self) -> pa.Schema:
        return pa.schema(list(self.types.items()))

    def hold(self, partitions) -> None:
        self.held.append(frozenset(partitions))

    def expected_partitions(self):
        # Asked while the join listens to its inputs: here a test lets time pass.
        while self.listening:
            self.listening.pop()()
        return ()


def shown(*rows, name="p"):
    return name, [{"id": id, "at": float(at)} for id, at in rows]


def fed(*rows, name="p"):
    return name, [{"id": id, "at": float(at), "value": float(*value or [0])} for id, at, *value in rows]


def join(impressions, clicks, **options):
    rules = {"on": "id", "time": "at", "lateness": 0, "policy": LABELS, "clock": Still()} | options
    if not isinstance(clicks, list):
        rules = {"label": "click", "window": 10} | rules
    return Join(impressions, clicks, **rules)


def feed(*steps, **options):
    return Script(*steps, types=FED, **options)


def read(made, max_rows=16):
    return list(made.read({}, max_rows=max_rows, stop=threading.Event()))


def labels(made):
    return [(row["id"], row["click"]) for row in all_rows(made)]


def figures(made):
    return read(made)[-1].state.figures()


def test_of_duplicate_impressions_the_first_counts_while_it_waits():
    impressions = Script(
        shown(("a", 0), ("b", 1), ("a", 2)),
        shown(("a", 5)),
        # By now the first is out, and its name is free.
        shown(("c", 20)),
        shown(("a", 21)),
    )
    made = join(impressions, feed(fed(("x", 30))))
    assert [(row["id"], row["at"]) for row in all_rows(made)] == [("a", 0), ("b", 1), ("c", 20), ("a", 21)]
    assert figures(made)["join/duplicate_impressions"] == 2


def test_feedback_counts_once_and_of_values_the_one_that_was_chosen():
    clicks = [("a", 3, 5), ("a", 2, 7), ("a", 4, 6), ("a", 4, 6.5)]
    expected = {"first": 7, "last": 6.5, "max": 7, "sum": 24.5}
    for choose, value in expected.items():
        rules = [
            Feedback(feed(fed(*clicks)), "click", 10),
            Feedback(feed(fed(*clicks)), "seconds", 10, "value", choose),
        ]
        made = join(Script(shown(("a", 1))), rules)
        assert [(row["click"], row["seconds"]) for row in all_rows(made)] == [(1, value)]
        assert figures(made)["join/click/duplicates"] == 3


def test_an_impression_without_a_value_has_the_default():
    for default in (None, 0.0, -1.5):
        rules = [Feedback(feed(), "seconds", 10, "value", default=default)]
        assert all_rows(join(Script(shown(("a", 1))), rules))[0]["seconds"] == default


def test_the_window_and_the_lateness_bound_what_counts_to_the_microsecond():
    at = {"early": -2.000001, "skewed": -2.0, "last": 10.0, "late": 10.000001}
    impressions = Script(shown(*((id, 100) for id in at)))
    clicks = feed(fed(*((id, 100 + delay) for id, delay in at.items())))
    made = join(impressions, clicks, lateness=2)
    assert sorted(labels(made)) == [("early", 0), ("last", 1), ("late", 0), ("skewed", 1)]
    assert figures(made)["join/click/outside_window"] == 2


def test_feedback_waits_for_its_impression():
    # The impressions stop at 5 until the click, which is ahead of them, has been read.
    impressions = Script(shown(("a", 0)), shown(("b", 5)), shown(("c", 30)))
    clicks = feed(fed(("b", 6)), fed(("x", 30)))
    made = join(impressions, clicks)
    assert labels(made) == [("a", 0), ("b", 1), ("c", 0)]
    counted = figures(made)
    assert (counted["join/click/matched"], counted["join/click/unmatched"]) == (1, 1)
    assert counted["join/click/join_rate"] == 0.5


def take(made, until, max_rows=16):
    """Read a live join until a condition holds of what it gave; return rows and the newest figures."""
    rows, numbers = [], {}
    for chunk in made.read({}, max_rows=max_rows, stop=threading.Event()):
        rows += chunk.batch.to_pylist()
        numbers = chunk.state.figures()
        if until(rows, numbers):
            return rows, numbers
    raise AssertionError("the join ended")


class Gate:
    """Something that a test opens, and a script waits at."""

    def __init__(self):
        self.open = threading.Event()

    def __call__(self):
        assert self.open.wait(30)


def test_an_idle_partition_holds_nothing_back_and_what_it_brings_later_is_late():
    clock, gates = Still(), (Gate(), Gate())
    impressions = Script(
        shown(("a", 0), name="q"),
        gates[0],
        shown(("b", 100), name="p"),
        gates[1],
        shown(("late", 1), ("waits", 95), ("c", 101), name="q"),
        live=True,
    )
    clicks = feed(fed(("x", 100), name="clicks"), live=True)
    made = join(impressions, clicks, idle=30, clock=clock)
    reading = made.read({}, max_rows=16, stop=threading.Event())
    rows, numbers = [], {}

    def read_until(what):
        while not what():
            chunk = next(reading)
            rows.extend(chunk.batch.to_pylist())
            numbers.update(chunk.state.figures())

    read_until(lambda: numbers.get("join/waiting_rows") == 1)
    impressions.listening.append(partial(clock.advance, 20))
    gates[0].open.set()
    read_until(lambda: numbers["join/waiting_rows"] == 2)
    # As long as something may come from q, all wait for it: p is a hundred seconds ahead, and a is over.
    assert rows == []
    impressions.listening.append(partial(clock.advance, 15))
    read_until(lambda: rows)
    assert [row["id"] for row in rows] == ["a"]
    gates[1].open.set()
    read_until(lambda: numbers.get("join/late_impressions") == 1)
    assert numbers["join/waiting_rows"] == 3
    reading.close()


def test_late_feedback_counts_while_its_impression_waits_and_is_dropped_after():
    clicks = feed(
        fed(("x", 0)),
        fed(("x", 52)),
        # Behind the watermark, which is 50 by then: of one that waits, of one that is out, and of none.
        fed(("waits", 49), ("gone", 2), ("old", 30)),
        fed(("x", 80)),
    )
    made = join(Script(shown(("gone", 0), ("waits", 45), ("c", 50)), shown(("d", 51))), clicks)
    assert dict(labels(made)) == {"gone": 0, "waits": 1, "c": 0, "d": 0}
    counted = figures(made)
    assert counted["join/click/late"] == 3
    assert counted["join/click/dropped"] == 2
    assert counted["join/click/unmatched"] == 5


def test_an_input_that_is_ahead_is_held_back():
    # The impressions of a day, and clicks that come to the join one by one: it must not read the day ahead.
    waiting = []

    class Watched(Script):
        def read(self, positions, *, max_rows, stop):
            for chunk in super().read(positions, max_rows=max_rows, stop=stop):
                waiting.append(chunk)
                yield chunk

    day = Watched(*(shown((f"i{i}", 10 * i)) for i in range(200)))
    clicks = feed(*(fed(("x", 10 * i)) for i in range(200)))
    most = max(c.state.figures()["join/waiting_rows"] for c in read(join(day, clicks)))
    assert most <= 4
    assert len(waiting) == 200


def test_partitions_that_are_ahead_are_held_where_the_input_can():
    impressions = Script(
        shown(("a", 0), name="p"), shown(("b", 1000), name="q"), shown(("c", 990), name="p"), live=True
    )
    clicks = feed(fed(("x", 0)), fed(("x", 995)), fed(("x", 2000)), live=True)
    made = join(impressions, clicks, drift=60)
    take(made, lambda rows, _: rows and not impressions.held[-1])
    assert frozenset({"q"}) in impressions.held


def test_while_rows_are_learned_from_nobody_is_taken_for_silent():
    clock, gate = Still(), Gate()
    impressions = Script(
        shown(("a", 0), name="p"),
        shown(("b", 1), name="q"),
        gate,
        shown(("c", 1000), name="p"),
        shown(("d", 500), name="q"),
        live=True,
    )
    reading = join(impressions, feed(fed(("x", 2000))), idle=30, clock=clock).read(
        {}, max_rows=16, stop=threading.Event()
    )
    numbers = {}

    def read_until(impressions_read):
        while numbers.get("join/impressions") != impressions_read:
            numbers.update(next(reading).state.figures())

    read_until(2)
    # As when a job is paused by its guard: what is new waits all the while.
    clock.advance(100)
    gate.open.set()
    read_until(4)
    assert numbers["join/late_impressions"] == 0
    reading.close()


def test_a_partition_is_not_idle_while_it_is_held():
    clock, gates = Still(), (Gate(), Gate(), Gate())
    impressions = Script(
        shown(("a", 0), name="p"),
        shown(("b", 1000), name="q"),
        gates[0],
        shown(("c", 10), name="p"),
        gates[1],
        shown(("d", 5000), name="p"),
        gates[2],
        shown(("e", 1001), name="q"),
        live=True,
    )
    made = join(impressions, feed(fed(("x", 6000))), idle=30, clock=clock)
    reading = made.read({}, max_rows=16, stop=threading.Event())
    numbers = {}

    def read_until(impressions_read):
        while numbers.get("join/impressions") != impressions_read:
            numbers.update(next(reading).state.figures())

    read_until(2)
    # All the while q is held: it waits for p, which is a thousand seconds behind.
    for gate, impressions_read in zip(gates[:2], (3, 4), strict=True):
        assert impressions.held[-1] == {"q"}
        impressions.listening.append(partial(clock.advance, 20))
        gate.open.set()
        read_until(impressions_read)
    impressions.listening.append(partial(clock.advance, 20))
    gates[2].open.set()
    read_until(5)
    assert {"p"} in impressions.held
    assert numbers["join/late_impressions"] == 0
    reading.close()


def test_a_partition_that_is_heard_of_while_reading_holds_the_watermark_back():
    expected = []

    class Found(Script):
        def expected_partitions(self):
            return expected

    gate = Gate()
    # As a broker tells of partitions once it was asked: before the first rows, but after reading began.
    impressions = Found(
        lambda: expected.extend(["p", "q"]),
        shown(("a", 0), ("b", 100), name="p"),
        gate,
        shown(("c", 50), name="q"),
        shown(("d", 101), name="q"),
        live=True,
    )
    made = join(impressions, feed(fed(("x", 6000))))
    reading = made.read({}, max_rows=16, stop=threading.Event())
    assert next(reading).batch.num_rows == 0
    gate.open.set()
    rows = []
    while len(rows) < 2:
        rows += next(reading).batch.to_pylist()
    assert [row["id"] for row in rows] == ["a", "c"]
    reading.close()


class Holdable(Script):
    """Gives nothing of what is held, and ends when all is given."""

    def __init__(self, *steps):
        super().__init__(*steps)
        self.changed = threading.Condition()
        self.holds = frozenset()

    def hold(self, partitions):
        super().hold(partitions)
        with self.changed:
            self.holds = frozenset(partitions)
            self.changed.notify_all()

    def read(self, positions, *, max_rows, stop):
        for chunk in super().read(positions, max_rows=max_rows, stop=stop):
            with self.changed:
                assert self.changed.wait_for(lambda name=chunk.partition: name not in self.holds, 30)
            yield chunk


def test_what_is_held_for_a_partition_that_has_ended_is_given_all_the_same():
    long = [shown((f"q{i}", 100 * i), name="q") for i in range(1, 20)]
    impressions = Holdable(shown(("p", 0), name="p"), *long)
    made = join(impressions, feed(fed(("x", 6000))), drift=60)
    assert [row["id"] for row in all_rows(made)] == ["p", *(f"q{i}" for i in range(1, 20))]
    assert impressions.held[0] == {"q"}


def test_rows_without_key_time_or_value_are_rejected_with_their_place():
    impressions = Script(
        (
            "p",
            [
                {"id": "a", "at": 1.0},
                {"id": None, "at": 1.0},
                {"id": "b", "at": None},
                {"id": "c", "at": 1e11},
            ],
            Reject("p", 0, "not valid JSON"),
        )
    )
    rows = [{"id": "a", "at": 2.0, "value": None}, {"id": "a", "at": 3.0, "value": 4.0}]
    made = join(impressions, [Feedback(feed(("q", rows)), "seconds", 10, "value")])
    chunks = read(made)
    assert [row["id"] for chunk in chunks for row in chunk.batch.to_pylist()] == ["a"]
    assert [row["seconds"] for chunk in chunks for row in chunk.batch.to_pylist()] == [4.0]
    rejects = sorted((r.partition, r.position, r.reason) for chunk in chunks for r in chunk.rejects)
    assert rejects == [
        ("impressions/p", 0, "not valid JSON"),
        ("impressions/p", 2, "column 'id': no key that can be joined"),
        ("impressions/p", 3, "column 'at': no event time"),
        ("impressions/p", 4, "column 'at': in the future"),
        ("seconds/q", 0, "column 'value': no finite number"),
    ]
    assert chunks[-1].state.figures()["join/rejected_rows"] == 5


@pytest.mark.parametrize(
    ("types", "reason"),
    [
        ({"at": pa.float64()}, "missing column 'id'"),
        ({"id": pa.list_(pa.int64()), "at": pa.float64()}, "column 'id': .* cannot be an id"),
        ({"id": pa.string(), "at": pa.bool_()}, "column 'at': bool cannot be read as event time"),
    ],
)
def test_a_column_that_cannot_be_used_rejects_every_row(types, reason):
    rows = [{"id": None, "at": None}] * 2
    [chunk, *_] = read(join(Script(("p", rows), types=types), feed()))
    assert len(chunk.rejects) == 2
    assert all(re.match(reason, reject.reason) for reject in chunk.rejects)


def test_the_columns_of_impressions_may_change_while_they_wait():
    plain = Script(shown(("a", 0), ("c", 2)))
    changed = Script(("p", [{"id": "b", "at": 1.0, "more": 7}]), types={**SHOWN, "more": pa.int64()})

    class Both(Script):
        def read(self, positions, **options):
            yield from plain.read({}, **options)
            for chunk in changed.read({}, **options):
                yield Chunk(chunk.batch, "p", 3)

    assert all_rows(join(Both(), feed())) == [
        {"id": "a", "at": 0.0, "click": 0},
        {"id": "b", "at": 1.0, "more": 7, "click": 0},
        {"id": "c", "at": 2.0, "click": 0},
    ]


def test_a_label_must_not_be_a_column_of_the_impressions():
    made = join(
        Script(("p", [{"id": "a", "at": 0.0, "click": 1}]), types={**SHOWN, "click": pa.int64()}), feed()
    )
    with pytest.raises(ColumnError, match="the impressions have a column 'click'"):
        all_rows(made)
    assert all_rows(join(made.impressions, feed(), label="clicked"))[0]["clicked"] == 0


def test_a_full_disk_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    made = join(Script(shown(("a", 0))), feed(), memory=1, spill=tmp_path / "file")
    with pytest.raises(StreamError, match=r"cannot move .* waiting bytes out of memory to .*file"):
        all_rows(made)


def test_a_checkpoint_goes_on_only_with_the_join_that_made_it():
    inputs = Script(shown(("a", 0), ("b", 1), ("c", 20))), feed(fed(("x", 30)))
    _, crash = rows_until(join(*inputs), Crash({}), 1, 16)
    assert rows_until(join(*inputs), crash, None, 16)[0] == [
        {"id": "b", "at": 1.0, "click": 0},
        {"id": "c", "at": 20.0, "click": 0},
    ]
    with pytest.raises(JobError, match=r"click\.window was '10s' and is '11m'; while rows wait"):
        rows_until(join(*inputs, window="11m"), crash, None, 16)
    with pytest.raises(CheckpointError, match="goes on from row 1 only with what it remembered"):
        rows_until(join(*inputs), Crash(crash.positions), None, 16)
    with pytest.raises(CheckpointError, match="the checkpoint holds no join"):
        join(*inputs).load({"other": State()})
    lacking = {name: state for name, state in crash.states.items() if not name.startswith("impressions")}
    with pytest.raises(CheckpointError, match="the checkpoint has no state 'impressions-"):
        rows_until(join(*inputs), Crash(crash.positions, lacking), None, 16)
    with pytest.raises(CheckpointError, match="joined rows that cannot be made again"):
        rows_until(join(*inputs), Crash({"join": 9}, crash.states), None, 16)


def test_inputs_that_ended_and_grew_are_read_on():
    first = shown(("a", 0), ("b", 1)), fed(("a", 2))
    made = join(Script(first[0]), feed(first[1]))
    chunks = read(made)
    end = Crash({"join": chunks[-1].next}, stored(chunks[-1].state.states()))
    assert end.positions == {"join": 2}
    more = join(Script(first[0], shown(("c", 3))), feed(first[1], fed(("c", 5))))
    assert rows_until(more, end, None, 16)[0] == [{"id": "c", "at": 3.0, "click": 1}]


VALUED = {"stream": feed(), "label": "seconds", "window": 10, "value": "value", "on": "id"}


@pytest.mark.parametrize(
    ("options", "feedback", "told"),
    [
        ({"lateness": "2s"}, {}, "lateness was '0s' and is '2s'"),
        ({"unit": "ms"}, {}, "unit was 's' and is 'ms'"),
        ({}, {"on": "other"}, "seconds.on was 'id' and is 'other'"),
        ({}, {"time": "value"}, "seconds.time was 'at' and is 'value'"),
        ({}, {"value": "at"}, "seconds.value was 'value' and is 'at'"),
        ({}, {"choose": "max"}, "seconds.choose was 'first' and is 'max'"),
        ({}, {"default": 0}, "seconds.default was None and is '0.0'"),
        ({}, {"window": 20}, "seconds.window was '10s' and is '20s'"),
        ({}, {"policy": "when_known"}, "seconds.policy was 'wait' and is 'when_known'"),
        ({}, {"label": "price"}, "labels was ['seconds'] and is ['price']"),
    ],
)
def test_what_must_stay_while_rows_wait_is_told_by_name(options, feedback, told):
    impressions = Script(shown(("a", 0), ("b", 1), ("c", 20)))

    def made(options, feedback):
        return join(impressions, [Feedback(**VALUED | feedback)], **options)

    _, crash = rows_until(made({}, {}), Crash({}), 1, 16)
    with pytest.raises(JobError, match=re.escape(f"the checkpoint was made by another join: {told}")):
        rows_until(made(options, feedback), crash, None, 16)


def test_a_checkpoint_that_says_less_of_its_join_is_gone_on_from():
    impressions = Script(shown(("a", 0), ("b", 1), ("c", 20)))

    def made(**feedback):
        return join(impressions, [Feedback(**VALUED | feedback)])

    _, crash = rows_until(made(), Crash({}), 1, 16)
    # As the first versions of joins described themselves.
    label = ["seconds", 10_000_000, True, "first", "wait", None, 0]
    crash.states[JOIN].facts["rules"] = ["id", "at", "s", label]
    assert [row["id"] for row in rows_until(made(), crash, None, 16)[0]] == ["b", "c"]
    with pytest.raises(JobError, match=re.escape("seconds.window was '10s' and is '11s'")):
        rows_until(made(window=11), crash, None, 16)
    with pytest.raises(JobError, match=re.escape("seconds.value was True and is False")):
        rows_until(made(value=None), crash, None, 16)


def test_delays_and_coverage_are_reported():
    impressions = Script(shown(*((f"i{i}", i) for i in range(100))))
    clicks = feed(fed(*((f"i{i}", i + 2) for i in range(0, 100, 4))))
    counted = figures(join(impressions, clicks))
    assert counted["join/click/coverage"] == 0.25
    assert counted["join/click/delay_p50_s"] == pytest.approx(2, rel=0.03)
    assert counted["join/watermark_lag_s"] == 0
    assert counted["join/emitted_rows"] == 100


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"label": None}, "needs the label"),
        ({"window": 0}, "window must be above 0"),
        ({"window": "soon"}, "expected seconds or a time"),
        ({"lateness": -1}, "lateness: expected seconds or a time"),
        ({"idle": "never"}, "idle: expected seconds or a time"),
        ({"drift": -1}, "drift: expected seconds or a time"),
        ({"future": "later"}, "future: expected seconds or a time"),
        ({"memory": "much"}, "expected a number of bytes"),
        ({"unit": "h"}, "unit must be"),
        ({"label": "id"}, "would be there twice"),
        ({"policy": "guess"}, "policy must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, wrong):
    with pytest.raises(JobError, match=wrong):
        join(Script(), feed(), **options)


def test_several_feedbacks_say_their_labels_themselves():
    with pytest.raises(JobError, match="said in each Feedback"):
        join(Script(), [Feedback(feed(), "click", 10)], label="click")
    with pytest.raises(JobError, match="would be there twice"):
        join(Script(), [Feedback(feed(), "click", 10), Feedback(feed(), "click", 20)])
    with pytest.raises(JobError, match="choose and default are for a value"):
        Feedback(feed(), "click", 10, choose="sum")
    with pytest.raises(JobError, match="choose must be"):
        Feedback(feed(), "click", 10, "value", choose="any")


def test_only_needed_columns_are_read_and_inputs_are_told_what_is_kept(tmp_path):
    told = []

    class Selecting(Replay):
        def select(self, names):
            told.append(list(names))
            return self

        def kept(self, positions):
            told.append(dict(positions))

        def asks(self, positions):
            return positions.get("p") == 3

        def release(self):
            told.append("released")

    impressions = Selecting({"p": shown(("a", 0), ("b", 1), ("c", 20))[1]}, SHOWN, most=1)
    made = join(impressions, [Feedback(Replay({"p": []}, FED), "click", 10, time="at")])
    made = made.select(["user", "click", "id"]).placed(tmp_path)
    assert told.pop() == ["user", "id", "at"]
    made.kept({})
    assert told.pop() == {}
    read(made)
    made.kept({"join": 3})
    assert told.pop() == {"p": 3}
    assert made.asks({"join": 3})
    made.release()
    assert told == ["released"]

"""Pace: rows are given no faster than asked, on a clock that never sleeps."""

import threading

import pyarrow as pa
import pytest
from streamed import FakeClock, numbers

from onstream.contracts import Chunk, Reject
from onstream.errors import ColumnError, JobError
from onstream.streams import EventPace
from onstream.streams.chunks import skip_to
from onstream.streams.pace import SystemClock, check_rate, pace


def test_rows_a_second_come_smoothly_and_not_faster():
    clock = FakeClock()
    paced = pace([Chunk(numbers(0, 250), "p", 250)], 100, threading.Event(), clock)
    given = [(clock.now - 1_000, chunk) for chunk in paced]
    assert [chunk.batch.num_rows for _, chunk in given] == [10] * 25
    assert [when for when, _ in given] == pytest.approx([i / 10 for i in range(25)])
    assert [chunk.next for _, chunk in given] == list(range(10, 251, 10))
    assert [row for _, c in given for row in c.batch["n"].to_pylist()] == list(range(250))


def test_what_a_silent_source_missed_is_not_made_up_for():
    clock = FakeClock()

    def source():
        yield Chunk(numbers(0, 1), "p", 1)
        clock.now += 60
        yield Chunk(numbers(1, 20), "p", 21)

    times = [clock.now - 1_000 for _ in pace(source(), 10, threading.Event(), clock)]
    assert times == pytest.approx([0] + [60 + i / 10 for i in range(20)])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([5.0, 5.05, None, 4.0, 7.0, float("inf")]),
        pa.array([5_000, 5_050, None, 4_000, 7_000, None], pa.timestamp("ms")),
    ],
)
def test_event_times_pass_at_the_factor(column):
    clock = FakeClock()
    chunk = Chunk(pa.record_batch({"t": column}), "p", 6)
    given = [
        (round(clock.now - 1_000, 6), c.batch.num_rows)
        for c in pace([chunk], EventPace("t", 2.0), threading.Event(), clock)
    ]
    assert given == [(0.0, 4), (1.0, 2)]


def test_dates_are_event_times():
    clock = FakeClock()
    chunk = Chunk(pa.record_batch({"t": pa.array([0, 1], pa.date32())}), "p", 2)
    times = [clock.now for _ in pace([chunk], EventPace("t", 86_400), threading.Event(), clock)]
    assert times == [1_000.0, 1_001.0]


def test_stop_ends_it_before_the_next_rows():
    stop = threading.Event()
    chunks = pace([Chunk(numbers(0, 100), "p", 100)], 10, stop, FakeClock())
    assert next(chunks).batch.num_rows == 1
    stop.set()
    assert list(chunks) == []


def test_rejects_and_empty_chunks_pass_once():
    rejects = [Reject("p", 0, "bad"), Reject("p", 30, "bad"), Reject("p", 99, "bad")]
    ends = pa.array(range(10, 60, 10)).to_numpy()
    chunk = Chunk(numbers(0, 5), "p", 100, ends, rejects)
    given = list(pace([chunk, skip_to("p", 120)], 20, threading.Event(), FakeClock()))
    assert [[r.position for r in c.rejects] for c in given] == [[0], [30], [99], []]
    assert [c.next for c in given] == [20, 40, 100, 120]


def test_a_rate_that_makes_no_sense_is_refused():
    for wrong in (0, -1.0, float("inf")):
        with pytest.raises(JobError, match="rate must be"):
            check_rate(wrong)
    with pytest.raises(JobError, match="factor"):
        EventPace("t", 0)
    for column in ("missing", "n"):
        chunk = Chunk(pa.record_batch({"n": ["x"]}), "p", 1)
        with pytest.raises(ColumnError, match=column):
            list(pace([chunk], EventPace(column), threading.Event(), FakeClock()))


def test_the_system_clock_stops_waiting_when_stop_is_set():
    stop = threading.Event()
    stop.set()
    clock = SystemClock()
    before = clock.time()
    clock.wait(3_600, stop)
    assert clock.time() >= before

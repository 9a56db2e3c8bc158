"""Cutting: batches are a function of the rows alone, however they came in chunks."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import numbers, read

from onstream.contracts import Chunk, Reject
from onstream.streams import Ahead, Files, cut
from onstream.streams.ahead import END
from onstream.streams.chunks import skip_to


def facts(made):
    """Everything of a cut that must be repeatable."""
    return (
        [batch.to_pylist() for batch in made.batches],
        made.positions,
        made.rejects,
        [(place.partition, place.starts.tolist()) for place in made.places],
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["row", "blank", "bad"]), max_size=15), min_size=1, max_size=3),
    st.integers(1, 8),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_cuts_do_not_depend_on_chunks_and_go_on_from_any_cut(tmp_path_factory, files, rows, first, second):
    directory = tmp_path_factory.mktemp("cut")
    for f, kinds in enumerate(files):
        lines = {"row": "%d,x\n", "blank": "\n", "bad": "bad%d\n"}
        text = "".join(lines[kind] % i if "%" in lines[kind] else "\n" for i, kind in enumerate(kinds))
        (directory / f"{f}.csv").write_text("a,b\n" + text)
    stream = Files(directory, schema={"a": "int64", "b": "string"})

    def cuts(positions, max_rows):
        chunks = stream.read(positions, max_rows=max_rows, stop=threading.Event())
        return list(cut(chunks, rows=rows, positions=positions))

    whole = cuts({}, first)
    assert [facts(c) for c in whole] == [facts(c) for c in cuts({}, second)]
    positions = {}
    for i, made in enumerate(whole):
        positions |= made.positions
        assert [facts(c) for c in cuts(positions, second)] == [facts(c) for c in whole[i + 1 :]]
    num_rows = sum(kind == "row" for kinds in files for kind in kinds)
    assert sum(c.num_rows for c in whole) == num_rows
    assert [c.num_rows for c in whole if c.num_rows == rows] == [rows] * (num_rows // rows)
    assert sum(len(c.rejects) for c in whole) == sum(kind == "bad" for kinds in files for kind in kinds)


def test_rows_of_one_chunk_are_not_copied():
    batch = numbers(0, 10)
    [first, second] = cut([Chunk(batch, "p", 10)], rows=5)
    address = batch["n"].buffers()[1].address
    assert [c.batches[0]["n"].buffers()[1].address for c in (first, second)] == [address, address]
    assert second.batches[0]["n"].to_pylist() == [5, 6, 7, 8, 9]
    assert second.places[0].starts.tolist() == [5, 6, 7, 8, 9]


def test_neighbours_of_one_schema_and_partition_become_one_batch():
    other = pa.record_batch({"n": ["x"]})
    chunks = [
        Chunk(other, "p", 1),
        Chunk(numbers(1, 2), "p", 3),
        Chunk(numbers(3, 2), "p", 5),
        Chunk(numbers(0, 2), "q", 2),
        Chunk(numbers(2, 1), "q", 3),
    ]
    [made] = cut(chunks, rows=8)
    assert [b.num_rows for b in made.batches] == [1, 4, 3]
    assert [(p.partition, p.starts.tolist()) for p in made.places] == [
        ("p", [0]),
        ("p", [1, 2, 3, 4]),
        ("q", [0, 1, 2]),
    ]
    assert made.positions == {"p": 5, "q": 3}
    assert made.num_rows == 8


def test_rejects_go_with_the_row_after_them_and_the_last_come_alone():
    rejects = [Reject("p", place, "bad") for place in (10, 30, 50)]
    chunk = Chunk(numbers(0, 2), "p", 60, np.array([10, 30]), rejects)
    made = list(cut([chunk], rows=1))
    assert [(c.num_rows, [r.position for r in c.rejects], c.positions) for c in made] == [
        (1, [], {"p": 10}),
        (1, [10], {"p": 30}),
        (0, [30, 50], {"p": 60}),
    ]


def test_starts_continue_from_the_given_positions():
    chunk = Chunk(numbers(0, 2), "p", 60, np.array([50, 60]))
    [made] = cut([chunk], rows=2, positions={"p": 40})
    assert made.places[0].starts.tolist() == [40, 50]
    [made] = cut([Chunk(numbers(0, 2), "p", 102)], rows=2)
    assert made.places[0].starts.tolist() == [100, 101]


class Arrivals:
    """Chunks that arrive at given times, on a clock of its own."""

    def __init__(self, *arrivals):
        self.arrivals = list(arrivals)
        self.now = 0.0

    def take(self, timeout_s=None):
        if not self.arrivals:
            return END
        if timeout_s is not None and self.arrivals[0][0] > self.now + timeout_s:
            self.now += timeout_s
            return None
        at, chunk = self.arrivals.pop(0)
        self.now = max(self.now, at)
        return chunk


def test_a_partial_batch_is_given_when_its_first_row_has_waited():
    source = Arrivals(
        (0.0, Chunk(numbers(0, 3), "p", 3)),
        (0.6, Chunk(numbers(3, 1), "p", 4)),
        (9.0, Chunk(numbers(4, 1), "p", 5)),
        (20.0, skip_to("p", 6, [Reject("p", 5, "bad")])),
        (40.0, Chunk(numbers(6, 1), "p", 7)),
    )
    cuts = cut(source, rows=2, max_wait_s=1.0, monotonic=lambda: source.now)
    given = [(source.now, c.num_rows, c.positions["p"]) for c in cuts]
    assert given == [(0.0, 2, 2), (0.6, 2, 4), (10.0, 1, 5), (21.0, 0, 6), (40.0, 1, 7)]


def test_the_wait_begins_with_the_first_row_of_each_batch():
    source = Arrivals(
        (0.0, Chunk(numbers(0, 1), "p", 1)),
        (0.6, Chunk(numbers(1, 1), "p", 2)),
        (5.0, Chunk(numbers(2, 1), "p", 3)),
        (5.5, Chunk(numbers(3, 3), "p", 6)),
        (9.0, Chunk(numbers(6, 3), "p", 9)),
    )
    cuts = cut(source, rows=3, max_wait_s=1.0, monotonic=lambda: source.now)
    assert [(source.now, c.num_rows) for c in cuts] == [(1.0, 2), (5.5, 3), (6.5, 1), (9.0, 3)]


def test_waiting_works_with_ahead_and_needs_it(tmp_path):
    stop = threading.Event()
    (tmp_path / "x.csv").write_text("a\n1\n2\n3\n")
    chunks = Files(tmp_path, follow=True).read({}, max_rows=10, stop=stop)
    with Ahead(chunks, depth=2, stop=stop) as ahead:
        cuts = cut(ahead, rows=2, max_wait_s=0.01)
        assert [next(cuts).num_rows for _ in range(2)] == [2, 1]
    with pytest.raises(TypeError, match="Ahead"):
        next(cut(read(Files(tmp_path)), rows=2, max_wait_s=1.0))


def test_what_a_stream_remembers_goes_with_the_last_of_its_rows_and_alone_while_there_are_none():
    class Memory:
        def states(self):
            return {}

        def figures(self):
            return {}

    first, second, third = Memory(), Memory(), Memory()
    chunks = [
        Chunk(numbers(0, 0), "join", 0, state=first),
        Chunk(numbers(0, 3), "join", 3, state=second),
        # Nothing is cut short for this one.
        Chunk(numbers(0, 0), "join", 3, state=third),
        Chunk(numbers(3, 2), "join", 5, state=third),
    ]
    made = [(piece.num_rows, piece.positions, piece.state) for piece in cut(chunks, rows=2)]
    assert made == [
        (0, {"join": 0}, first),
        (2, {"join": 2}, second),
        (2, {"join": 4}, third),
        (1, {"join": 5}, third),
    ]

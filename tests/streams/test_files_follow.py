"""Following: new lines and new files are read as they come."""

import threading

import pyarrow as pa
import pyarrow.parquet as pq
from streamed import FakeClock, numbers

from onstream.streams import EventPace, Files


def following(stream, positions=None):
    stop = threading.Event()
    return stream.read(positions or {}, max_rows=100, stop=stop), stop


def test_a_line_is_read_once_its_end_is_there(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n2")
    chunks, stop = following(Files(path, follow=True))
    assert next(chunks).batch.to_pydict() == {"a": [1]}
    with path.open("a") as file:
        file.write("2\n3\n4")
    chunk = next(chunks)
    assert chunk.batch.to_pydict() == {"a": [22, 3]}
    assert chunk.next == len("a\n1\n22\n3\n")
    stop.set()
    assert list(chunks) == []


def test_files_that_appear_later_are_read(tmp_path):
    chunks, stop = following(Files(tmp_path, follow=True))
    waiting = threading.Thread(target=lambda: got.append(next(chunks)))
    got = []
    waiting.start()
    (tmp_path / "x.csv.tmp").write_text("a\n1\n")
    (tmp_path / "x.csv.tmp").rename(tmp_path / "x.csv")
    waiting.join(10)
    assert got[0].batch.to_pydict() == {"a": [1]}
    pq.write_table(pa.Table.from_batches([numbers(5, 2)]), tmp_path / "_y.parquet")
    (tmp_path / "_y.parquet").rename(tmp_path / "a.parquet")
    assert next(chunks).batch.to_pydict() == {"n": [5, 6]}
    stop.set()
    assert list(chunks) == []


def test_waiting_ends_when_stop_is_set(tmp_path):
    chunks, stop = following(Files(tmp_path / "none.csv", follow=True))
    waiting = threading.Thread(target=lambda: list(chunks))
    waiting.start()
    stop.set()
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_header_is_waited_for(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,")
    chunks, stop = following(Files(path, follow=True))
    with path.open("a") as file:
        file.write("b\n1,2\n")
    assert next(chunks).batch.to_pydict() == {"a": [1], "b": [2]}
    stop.set()


def test_rate_and_clock_pace_files_and_keep_the_event_time_decoded(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,t\n1,100\n2,160\n")
    clock = FakeClock()
    stream = Files(path, rate=EventPace("t", factor=60), clock=clock).select(["a"])
    times = [
        (c.batch["a"].to_pylist(), clock.now) for c in stream.read({}, max_rows=9, stop=threading.Event())
    ]
    assert times == [([1], 1_000.0), ([2], 1_001.0)]

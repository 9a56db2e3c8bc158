"""The log: what was acknowledged is there, in order, whole."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import FakeClock, numbers, read, rejects_of, rows_of

import onstream.streams.log.appends as log_module
from onstream.errors import ColumnError, JobError, StreamError
from onstream.streams import Appended, EventPace, Log

OPEN: list[Log] = []


@pytest.fixture(autouse=True)
def closed():
    yield
    while OPEN:
        OPEN.pop().close()


def made(tmp_path, **options):
    OPEN.append(Log(tmp_path / "log.db", **{"follow": False, **options}))
    return OPEN[-1]


def values(chunks):
    return [row["n"] for row in rows_of(chunks)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 40), st.integers(1, 7))
def test_reading_gives_what_was_appended_from_any_row_on(tmp_path_factory, sizes, position, max_rows):
    log = made(tmp_path_factory.mktemp("log"))
    end = 0
    for size in sizes:
        assert log.append(numbers(end, size)) == Appended(end, end + size)
        end += size
    assert (log.first, log.end) == (0, end)
    position = min(position, end)
    chunks = read(log, {"log": position}, max_rows)
    assert values(chunks) == list(range(position, end))
    assert all(c.partition == "log" and c.batch.num_rows <= max_rows for c in chunks)
    assert all(c.next == c.batch["n"][-1].as_py() + 1 for c in chunks)
    assert log.behind({"log": position}) == (end - position, "rows")


def test_rows_are_there_when_the_log_is_opened_again(tmp_path):
    with made(tmp_path) as log:
        log.append(pa.table({"n": [0, 1], "s": ["x", None]}))
    log = made(tmp_path)
    assert log.append(pa.record_batch({"n": ["other"]})) == Appended(2, 3)
    assert rows_of(read(log)) == [{"n": 0, "s": "x"}, {"n": 1, "s": None}, {"n": "other"}]
    assert log.schema() == pa.schema({"n": pa.string()})


def test_an_empty_log_has_no_columns_and_no_rows(tmp_path):
    log = made(tmp_path / "new" / "directory")
    assert log.schema() == pa.schema([])
    assert read(log) == []
    assert (log.first, log.end) == (0, 0)


def test_selected_columns_only_are_decoded(tmp_path):
    log = made(tmp_path)
    log.append(pa.record_batch({"a": [1], "b": ["x"], "c": [2.0]}))
    selected = log.select(["c", "a", "missing"])
    assert rows_of(read(selected)) == [{"a": 1, "c": 2.0}]
    assert selected.schema().names == ["a", "c"]


def test_a_batch_with_none_of_the_selected_columns_comes_whole_and_one_without_columns_is_refused(tmp_path):
    log = made(tmp_path)
    log.append(pa.record_batch({"a": [1]}))
    log.append(pa.record_batch({"b": [2], "c": [3]}))
    assert rows_of(read(log.select(["a", "d"]))) == [{"a": 1}, {"b": 2, "c": 3}]
    with pytest.raises(ColumnError, match="2 rows to append have no columns"):
        log.append(pa.record_batch({"a": [1, 2]}).select([]))
    assert log.end == 2


def test_large_batches_are_stored_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "PIECE_BYTES", 1_000)
    log = made(tmp_path)
    assert log.append(numbers(0, 1_000)) == Appended(0, 1_000)
    chunks = read(log)
    assert len(chunks) == 8
    assert values(chunks) == list(range(1_000))


def test_a_batch_that_is_not_valid_is_refused(tmp_path):
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0"), pa.py_buffer(b"\xff")]
    )
    log = made(tmp_path)
    with pytest.raises(ColumnError, match="not valid"):
        log.append(pa.record_batch({"s": text}))
    assert log.end == 0


@pytest.mark.parametrize(
    ("retention", "first"),
    [
        ({"retention_rows": 25}, 20),
        ({"retention_rows": 20}, 30),
        ({"retention_bytes": 1}, 50),
        ({"retention_s": 2.5}, 30),
    ],
)
def test_retention_drops_whole_old_batches(tmp_path, retention, first):
    clock = FakeClock()
    log = made(tmp_path, clock=clock, **retention)
    for i in range(5):
        log.append(numbers(10 * i, 10))
        clock.now += 1
    log.append(numbers(50, 1))
    # 51 rows: the last 25 begin within the third batch, the last 20 within the fourth.
    assert log.first == first
    assert values(read(log, {"log": first})) == list(range(first, 51))


def test_a_batch_is_dropped_once_those_after_it_hold_enough_bytes(tmp_path):
    log = made(tmp_path)
    log.append(numbers(0, 10))
    with sqlite3.connect(log.path) as connection:
        [size] = connection.execute("SELECT length(data) FROM batches").fetchone()
    connection.close()
    for i in range(1, 4):
        log.append(numbers(10 * i, 10))
    assert made(tmp_path, retention_bytes=2 * size + 1).trim() == 10
    assert made(tmp_path, retention_bytes=2 * size).trim() == 10


def test_trim_drops_what_has_grown_old(tmp_path):
    clock = FakeClock()
    log = made(tmp_path, clock=clock, retention_s=10)
    log.append(numbers(0, 3))
    assert log.trim() == 0
    clock.now += 10
    assert log.trim() == 3
    assert (log.first, log.end) == (3, 3)
    assert log.append(numbers(3, 1)) == Appended(3, 4)


@pytest.mark.parametrize("kept", [1, 0])
def test_rows_lost_to_retention_are_an_error_or_a_reject(tmp_path, kept):
    clock = FakeClock()
    log = made(tmp_path, retention_s=5, clock=clock)
    log.append(numbers(0, 3))
    clock.now += 5
    log.append(numbers(3, kept))
    log.trim()
    with pytest.raises(StreamError, match="rows 1 to 3 were dropped by retention"):
        read(log, {"log": 1})
    chunks = read(made(tmp_path, on_loss="skip"), {"log": 1})
    assert values(chunks) == [3][:kept]
    assert rejects_of(chunks) == [(1, "dropped by retention before it was read")]
    assert chunks[-1].next == 3 + kept
    assert log.behind({}) == (kept, "rows")


def test_a_position_after_the_end_is_an_error(tmp_path):
    log = made(tmp_path)
    log.append(numbers(0, 3))
    with pytest.raises(StreamError, match="ends at row 3, position 4"):
        read(log, {"log": 4})


def test_a_damaged_batch_is_one_reject_and_the_others_are_read(tmp_path):
    log = made(tmp_path)
    for i in range(3):
        log.append(numbers(10 * i, 10))
    with sqlite3.connect(log.path) as connection:
        [data] = connection.execute("SELECT data FROM batches WHERE first = 10").fetchone()
        torn = bytearray(data)
        torn[-40] ^= 1
        connection.execute("UPDATE batches SET data = ? WHERE first = 10", (bytes(torn),))
    connection.close()
    chunks = read(log, {"log": 5})
    assert values(chunks) == [*range(5, 10), *range(20, 30)]
    assert rejects_of(chunks) == [(10, "damaged batch in the log")]


def test_a_file_that_is_no_log_is_an_error(tmp_path):
    (tmp_path / "log.db").write_bytes(b"something else " * 100)
    with pytest.raises(StreamError, match=r"log\.db.*not a database"):
        made(tmp_path)
    with Log(tmp_path / "new.db"):
        pass
    with sqlite3.connect(tmp_path / "new.db") as connection:
        connection.execute("UPDATE facts SET value = 9 WHERE name = 'format'")
    connection.close()
    with pytest.raises(StreamError, match="format 9"):
        Log(tmp_path / "new.db")


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for wrong in ({"retention_rows": 0}, {"retention_s": -1}, {"on_loss": "ignore"}, {"rate": 0}):
        with pytest.raises(JobError):
            made(tmp_path, **wrong)


def test_rows_come_at_the_pace_of_their_event_time(tmp_path):
    clock = FakeClock()
    log = made(tmp_path, rate=EventPace("t"), clock=clock).select(["n"])
    log.append(pa.record_batch({"n": [1, 2], "t": [5.0, 9.0]}))
    assert [
        (clock.now, c.batch["n"].to_pylist()) for c in log.read({}, max_rows=9, stop=threading.Event())
    ] == [
        (1_000.0, [1]),
        (1_004.0, [2]),
    ]


def test_a_follower_gets_rows_of_its_own_process_and_stops(tmp_path):
    log = made(tmp_path, follow=True)
    stop = threading.Event()
    got = []
    enough = threading.Event()

    def follow():
        for chunk in log.read({}, max_rows=100, stop=stop):
            got.extend(chunk.batch["n"].to_pylist())
            if len(got) == 50:
                enough.set()

    reader = threading.Thread(target=follow)
    reader.start()
    for i in range(5):
        log.append(numbers(10 * i, 10))
    assert enough.wait(20)
    stop.set()
    reader.join(20)
    assert got == list(range(50))
    assert not reader.is_alive()


def test_threads_append_without_tearing_each_other(tmp_path):
    ends = []

    def write(k):
        log = made(tmp_path)
        ends.extend((log.append(pa.record_batch({"n": [k] * 7})).end, k) for _ in range(10))

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = values(read(made(tmp_path)))
    assert sorted(end for end, _ in ends) == list(range(7, 281, 7))
    assert all(found[end - 7 : end] == [k] * 7 for end, k in ends)


def writer(path, num_batches, num_rows):
    root = Path(log_module.__file__).parents[2]
    return subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("log_writer.py"),
            str(path),
            str(num_batches),
            str(num_rows),
        ],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )


def test_processes_append_to_one_new_log_and_a_follower_of_another_sees_all(tmp_path):
    path = tmp_path / "log.db"
    writers = [writer(path, 10, 3) for _ in range(2)]
    acknowledged = [int(line) for process in writers for line in process.communicate(timeout=60)[0].split()]
    assert [process.returncode for process in writers] == [0, 0]
    assert sorted(acknowledged) == list(range(3, 61, 3))
    stop = threading.Event()
    chunks = made(tmp_path, follow=True).read({"log": 60}, max_rows=100, stop=stop)
    process = writer(path, 1, 5)
    assert next(chunks).batch.num_rows == 5
    process.communicate(timeout=60)
    stop.set()
    assert list(chunks) == []


def test_a_killed_writer_leaves_all_that_was_acknowledged_and_nothing_torn(tmp_path):
    path = tmp_path / "log.db"
    process = writer(path, 0, 20_000)
    acknowledged = [int(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().split(b"\n") if line]
    process.wait(timeout=60)
    process.stdout.close()
    log = made(tmp_path)
    assert log.end >= acknowledged[-1]
    assert log.end % 20_000 == 0
    chunks = read(log)
    assert rejects_of(chunks) == []
    assert values(chunks) == list(range(log.end))
    assert log.append(numbers(log.end, 1)).end == log.end


def test_rows_may_be_appended_as_dicts_and_nothing_else(tmp_path):
    log = Log(tmp_path / "log.db", follow=False)
    assert log.append([{"user": 7}, {"user": 8}]) == Appended(0, 2)
    [chunk] = log.read({}, max_rows=10, stop=threading.Event())
    assert chunk.batch.to_pylist() == [{"user": 7}, {"user": 8}]
    with pytest.raises(ColumnError, match="got dict"):
        log.append({"user": 7})


def test_arrivals_of_many_batches_are_an_even_share_of_them(tmp_path):
    clock = FakeClock()
    with Log(tmp_path / "events.db", clock=clock) as log:
        begin = clock.time()
        for _ in range(10):
            log.append([{"user": 1}])
            clock.now += 1.0
        assert [round(t - begin) for t in log.arrivals(0, 10)] == list(range(10))
        assert [round(t - begin) for t in log.arrivals(3, 5)] == [3, 4]
        assert [round(t - begin) for t in log.arrivals(0, 10, limit=4)] == [0, 3, 6, 9]
        assert log.arrivals(10, 10) == []

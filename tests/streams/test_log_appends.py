"""Appends with sequence numbers: each is in the log exactly once, whatever is repeated."""

import sqlite3
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamed import FakeClock, numbers, read, rows_of

import onstream.streams.log.appends as appends_module
from onstream.errors import ColumnError, RequestError, StreamError
from onstream.streams import Appended, Log
from onstream.streams.log.file import FORMAT


def made(path, **options):
    return Log(path / "log.db", **{"follow": False, **options})


def values(log):
    return [row["n"] for row in rows_of(read(log, {"log": log.first}))]


def test_a_repeat_returns_the_first_answer_and_appends_nothing_also_after_reopening(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 2))
        first = log.append(numbers(2, 3), writer="w", sequence=0)
        log.append(numbers(5, 1), writer="other", sequence=0)
        assert first == Appended(2, 5)
        assert log.append(numbers(2, 3), writer="w", sequence=0) == first
    with made(tmp_path) as log:
        later = log.append(numbers(6, 1), writer="w", sequence=7)
        assert log.append(numbers(2, 3), writer="w", sequence=0) == first
        assert log.append(numbers(6, 1), writer="w", sequence=7) == later == Appended(6, 7)
        assert values(log) == list(range(7))


def test_a_number_that_was_passed_over_is_refused_and_nothing_is_appended(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 1), writer="w", sequence=5)
        with pytest.raises(RequestError, match="went on to 5"):
            log.append(numbers(1, 1), writer="w", sequence=4)
        assert log.end == 1


def test_other_rows_under_a_number_that_was_used_are_refused(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 2), writer="w", sequence=5)
        with pytest.raises(RequestError, match=r"other rows were appended.*rows 0 to 2"):
            log.append(numbers(1, 2), writer="w", sequence=5)
        with pytest.raises(RequestError, match="other rows"):
            log.append(numbers(0, 1), writer="w", sequence=5)
        assert values(log) == [0, 1]


def test_numbers_are_forgotten_with_their_rows_except_the_newest_of_each_writer(tmp_path):
    clock = FakeClock()
    with made(tmp_path, clock=clock, retention_s=5) as log:
        log.append(numbers(0, 1), writer="quiet", sequence=0)
        log.append(numbers(1, 1), writer="w", sequence=0)
        log.append(numbers(2, 1), writer="w", sequence=1)
        clock.now += 5
        log.append(numbers(3, 1), writer="w", sequence=2)
        assert log.first == 3
        for sequence in (0, 1):
            with pytest.raises(RequestError, match="nothing is known"):
                log.append(numbers(1 + sequence, 1), writer="w", sequence=sequence)
        assert log.append(numbers(0, 1), writer="quiet", sequence=0) == Appended(0, 1)
        assert log.append(numbers(3, 1), writer="w", sequence=2) == Appended(3, 4)
        assert values(log) == [3]
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT count(*) FROM appends").fetchone() == (0,)
    connection.close()


def test_appends_without_rows_are_remembered_too(tmp_path):
    with made(tmp_path) as log:
        for sequence in range(3):
            assert log.append(numbers(0, 0), writer="w", sequence=sequence) == Appended(0, 0)
        assert log.append(numbers(0, 0), writer="w", sequence=0) == Appended(0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sequence": 1},
        {"writer": "w"},
        {"writer": "w", "sequence": -1},
        {"writer": "w", "sequence": 2**63},
        {"writer": "w" * 201, "sequence": 1},
        {"writer": "w\0", "sequence": 1},
    ],
)
def test_numbers_and_writers_that_make_no_sense_are_refused(tmp_path, wrong):
    with made(tmp_path) as log:
        with pytest.raises(RequestError):
            log.append(numbers(0, 1), **wrong)
        assert log.end == 0


Steps = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 2), st.booleans()), max_size=12
)


@given(Steps)
def test_a_log_does_as_a_dictionary_of_sequence_numbers(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("log")
    log, known, rows = made(path), {}, []
    for writer, sequence, size, reopen in steps:
        if reopen:
            log.close()
            log = made(path)
        newest = max((s for w, s in known if w == writer), default=-1)
        batch = numbers(10 * sequence, size)
        before = known.get((writer, sequence))
        if before is None and sequence > newest:
            expected = known[writer, sequence] = Appended(len(rows), len(rows) + size)
            rows += batch["n"].to_pylist()
            assert log.append(batch, writer=writer, sequence=sequence) == expected
        elif before is not None and before.end - before.first == size:
            assert log.append(batch, writer=writer, sequence=sequence) == before
        else:
            with pytest.raises(RequestError):
                log.append(batch, writer=writer, sequence=sequence)
    assert values(log) == rows
    log.close()


def test_many_threads_that_all_repeat_append_everything_once_and_in_the_order_of_each_writer(tmp_path):
    found: dict[tuple[int, int], set[Appended]] = {}
    with made(tmp_path) as log:

        def write(writer):
            for sequence in range(20):
                made = log.append(numbers(100 * writer + sequence, 1), writer=f"w{writer}", sequence=sequence)
                found.setdefault((writer, sequence), set()).add(made)

        # Three threads a writer do the same: whoever is behind repeats.
        threads = [threading.Thread(target=write, args=(k % 4,)) for k in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        rows = values(log)
    assert sorted(rows) == sorted(100 * k + i for k in range(4) for i in range(20))
    for k in range(4):
        assert [n for n in rows if n // 100 == k] == [100 * k + i for i in range(20)]
    assert all(
        len(made) == 1 and rows[next(iter(made)).first] == 100 * k + i for (k, i), made in found.items()
    )


def test_appends_that_wait_together_are_written_together_and_one_refused_harms_no_other(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 1), writer="w", sequence=0)
        outcomes = {}

        def write(name, sequence, rows):
            try:
                outcomes[name] = log.append(rows, writer="w" if name == "wrong" else name, sequence=sequence)
            except RequestError as error:
                outcomes[name] = str(error)

        statements = []
        log._file._writer.set_trace_callback(statements.append)
        threads = [threading.Thread(target=write, args=(n, 0, numbers(7, 2))) for n in ("a", "wrong", "b")]
        # While this thread has the turn, the others queue up; then whoever is first writes for all.
        with log._file.turn:
            for thread in threads:
                thread.start()
            while len(log._appender._waiting) < 3:
                threading.Event().wait(0.001)
        for thread in threads:
            thread.join()
        assert statements.count("COMMIT") == 1
        assert "other rows" in outcomes["wrong"]
        assert {outcomes["a"], outcomes["b"]} == {Appended(1, 3), Appended(3, 5)}
        assert log.end == 5


def test_when_a_group_cannot_be_written_nothing_of_it_is_there(tmp_path, monkeypatch):
    with made(tmp_path) as log:
        log.append(numbers(0, 1), writer="w", sequence=0)
        with sqlite3.connect(log.path) as connection:
            connection.execute(
                "CREATE TRIGGER full BEFORE INSERT ON batches BEGIN SELECT RAISE(FAIL, 'full'); END"
            )
        with pytest.raises(StreamError, match="full"):
            log.append(numbers(1, 1), writer="w", sequence=1)
        connection.execute("DROP TRIGGER full")
        connection.close()
        assert log.append(numbers(1, 1), writer="w", sequence=1) == Appended(1, 2)
        monkeypatch.setattr(appends_module, "_BLOB_BYTES", 10)
        with pytest.raises(ColumnError, match="takes"):
            log.append(numbers(2, 1))


def test_a_log_of_the_first_format_is_opened_and_keeps_its_rows(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 3))
    with sqlite3.connect(tmp_path / "log.db") as connection:
        for table in ("writers", "appends", "asked", "answers"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE facts SET value = 1 WHERE name = 'format'")
    connection.close()
    with made(tmp_path) as log:
        assert log.append(numbers(3, 1), writer="w", sequence=0) == Appended(3, 4)
        assert values(log) == [0, 1, 2, 3]
    with sqlite3.connect(tmp_path / "log.db") as connection:
        assert connection.execute("SELECT value FROM facts WHERE name = 'format'").fetchone() == (FORMAT,)
    connection.close()

"""The SQLite file of a log: its tables, its connections, its transactions."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onstream.errors import StreamError

__all__ = ["POLL_S", "LogFile", "data_version", "fact", "first_row"]

FORMAT = 2
"""Format 1 lacks the tables of writers and answers; opening such a file adds them."""

POLL_S = 0.005
"""How soon what another process commits is seen; each look costs microseconds."""

_BUSY_S = 60.0

# `last_byte` counts all bytes ever appended, so that retention by size needs no sum. The data stand last: a
# look at the other columns does not touch them. Of each writer the newest append is known for ever, and those
# before it as long as their rows.
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    first INTEGER PRIMARY KEY,
    num_rows INTEGER NOT NULL,
    time REAL NOT NULL,
    last_byte INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS writers (
    writer TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS appends (
    writer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    first INTEGER NOT NULL,
    end INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (writer, sequence)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS appends_by_row ON appends (first);
CREATE TABLE IF NOT EXISTS asked (first INTEGER PRIMARY KEY, end INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    first INTEGER PRIMARY KEY,
    end INTEGER NOT NULL,
    loss REAL,
    examples INTEGER NOT NULL,
    rejects TEXT NOT NULL,
    data BLOB NOT NULL
);
"""

# What goes with the rows that retention drops.
_OF_ROWS = ("appends", "asked", "answers")


class LogFile:
    """One SQLite file in WAL mode, with a connection to write and one for short looks.

    Notes
    -----
    Any thread may call any method. Writers of one process take turns here, so that they wait in line and not
    as SQLite waits, which is by chance; between processes SQLite's lock decides.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.turn = threading.RLock()
        self._looking = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = self.open()
        self._prepare()
        self._reader = self.open()

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """Run statements whole or not at all; without `durable` the disk is not waited for."""
        synchronous = "FULL" if durable else "NORMAL"
        begin = (f"PRAGMA synchronous = {synchronous}", "BEGIN IMMEDIATE")
        with self.turn, self._transaction(self._writer, *begin) as connection:
            yield connection

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Run queries that see one state of the file."""
        with self._looking, self._transaction(self._reader, "BEGIN") as connection:
            yield connection

    def version(self) -> int:
        """Return a number that changes whenever something was committed."""
        with self._looking:
            return data_version(self._reader)

    def open(self) -> sqlite3.Connection:
        """Open another connection that any thread may use, one at a time."""
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            _use_wal(connection)
        except sqlite3.Error as error:
            raise self.failed(error) from error
        return connection

    def drop_before(self, connection: sqlite3.Connection, kept: str, value: float) -> None:
        """Drop the batches before the first that is kept: a gap in the middle never appears."""
        first = f"(SELECT first FROM batches WHERE {kept} ORDER BY first LIMIT 1)"
        end = "(SELECT value FROM facts WHERE name = 'end')"
        gone = connection.execute(f"DELETE FROM batches WHERE first < coalesce({first}, {end})", (value,))
        if gone.rowcount:
            oldest = first_row(connection)
            for table in _OF_ROWS:
                connection.execute(f"DELETE FROM {table} WHERE first < ?", (oldest,))

    def failed(self, error: sqlite3.Error) -> StreamError:
        """Say that SQLite cannot do what it should."""
        return StreamError(f"log {str(self.path)!r}: {error}")

    def close(self) -> None:
        """Close both connections."""
        with self.turn:
            self._writer.close()
        with self._looking:
            self._reader.close()

    @contextmanager
    def _transaction(self, connection: sqlite3.Connection, *begin: str) -> Iterator[sqlite3.Connection]:
        try:
            for statement in begin:
                connection.execute(statement)
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self.failed(error) from error

    def _prepare(self) -> None:
        """Make the tables that are missing; check the format."""
        with self.write() as connection:
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('format', ?)", (FORMAT,))
            found = fact(connection, "format")
            if found == 1:
                connection.execute("UPDATE facts SET value = ? WHERE name = 'format'", (FORMAT,))
            elif found != FORMAT:
                raise StreamError(
                    f"log {str(self.path)!r} has format {found}; this version reads formats up to {FORMAT}"
                )


def fact(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that the log keeps; 0 if it was not written yet."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def first_row(connection: sqlite3.Connection) -> int:
    """Return the offset of the oldest row; the end if there is none."""
    row = connection.execute("SELECT min(first) FROM batches").fetchone()
    return fact(connection, "end") if row[0] is None else int(row[0])


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes whenever another connection commits."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _use_wal(connection: sqlite3.Connection) -> None:
    """Set WAL mode, which stays with the file.

    While others open the same new file, SQLite says at once that it is locked, whatever the time to wait.
    """
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)

"""The embedded durable log: what is appended is on disk when the call returns, and can be read again."""

from __future__ import annotations

import copy
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from onstream.contracts import Chunk, Positions, Reject
from onstream.errors import ColumnError, JobError, StreamError
from onstream.streams.chunks import NO_COLUMNS, skip_to
from onstream.streams.pace import SYSTEM_CLOCK, Clock, EventPace, Rate, check_rate, pace

__all__ = ["PARTITION", "Log"]

PARTITION = "log"
"""The name of the only partition of a log."""

_FORMAT = 1
_PIECE_BYTES = 64 << 20
_BLOB_BYTES = 1_000_000_000
_POLL_S = 0.02
_BUSY_S = 60.0

# `last_byte` counts all bytes ever appended, so that retention by size needs no sum. The data stand last: a
# look at the other columns does not touch them.
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
"""


class Log:
    """Keep appended rows in one SQLite file, and read them as a stream.

    For examples that come by a push: append, acknowledge, and learn from the log.

    Parameters
    ----------
    path : path
        Made if it is missing, with its directory.
    retention_rows, retention_bytes : int, optional
        A stored batch is dropped once those after it hold this many rows, or bytes.
    retention_s : float, optional
        A stored batch is dropped once it is this old.
    follow : bool, default True
        At the end, reading waits for more.
    rate : float or EventPace, optional
        Read no faster than this.
    on_loss : {"raise", "skip"}, default "raise"
        What reading does when retention has dropped rows before they were read: raise StreamError, or go on
        with the oldest row that is there and tell of the gap in a reject.
    clock : Clock, optional

    Raises
    ------
    StreamError
        If the file is no log, or SQLite cannot use it.

    Notes
    -----
    The only partition is "log"; a position is the number of rows before it, counted from the first ever
    appended. An append is durable when it returns: SQLite in WAL mode, synced. Appends of one call are there
    whole or not at all. Any number of threads and processes on one machine may append and read; a reader in
    the same process, of the same `Log`, wakes at once, another within some 20 ms.

    The file has a table `batches` (first, num_rows, time, last_byte, checksum, data): offset of the first
    row, number of rows, seconds since 1970, bytes appended so far, CRC-32 of the data, and one batch as an
    Arrow IPC stream. Space of dropped batches is used again; the file does not shrink.

    Examples
    --------
    >>> import tempfile, threading
    >>> log = Log(tempfile.mkdtemp() + "/clicks.db", follow=False)
    >>> log.append(pa.record_batch({"user": [7, 8]}))
    2
    >>> [chunk.batch.num_rows for chunk in log.read({"log": 1}, max_rows=100, stop=threading.Event())]
    [1]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention_rows: int | None = None,
        retention_bytes: int | None = None,
        retention_s: float | None = None,
        follow: bool = True,
        rate: Rate | None = None,
        on_loss: Literal["raise", "skip"] = "raise",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Open the file."""
        if on_loss not in ("raise", "skip"):
            raise JobError(f"on_loss must be 'raise' or 'skip', got {on_loss!r}")
        limits = {
            "retention_rows": retention_rows,
            "retention_bytes": retention_bytes,
            "retention_s": retention_s,
        }
        for name, limit in limits.items():
            if limit is not None and limit <= 0:
                raise JobError(f"{name} must be above 0, got {limit!r}")
        if rate is not None:
            check_rate(rate)
        self.path = Path(path)
        self.retention_rows = retention_rows
        self.retention_bytes = retention_bytes
        self.retention_s = retention_s
        self.follow = follow
        self.rate = rate
        self.on_loss = on_loss
        self.clock = clock
        self._columns: tuple[str, ...] | None = None
        self._appended = threading.Condition()
        self._writing = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()
        self._prepare()

    @property
    def live(self) -> bool:
        """Whether it follows what is appended or gives rows at a pace."""
        return self.follow or self.rate is not None

    @property
    def first(self) -> int:
        """The offset of the oldest row that is there; `end` if there is none."""
        with self._transaction("BEGIN") as connection:
            return _first(connection)

    @property
    def end(self) -> int:
        """The offset after the newest row."""
        with self._transaction("BEGIN") as connection:
            return _fact(connection, "end")

    def append(self, rows: pa.RecordBatch | pa.Table | list[dict[str, Any]]) -> int:
        """Append rows; they are durable when this returns.

        Parameters
        ----------
        rows : pyarrow.RecordBatch, pyarrow.Table, or list of dict
            Dicts are rows, by column name.

        Returns
        -------
        int
            The offset after the last of them.

        Raises
        ------
        StreamError
            If the rows cannot be written, for instance because the disk is full; then none of them is there.
        ColumnError
            If a row is larger than SQLite can hold, or an array is not valid.

        Notes
        -----
        Costs one sync of the disk, so append many rows at once. Batches over 64 MiB are stored in pieces.
        """
        if isinstance(rows, list):
            rows = pa.RecordBatch.from_pylist(rows)
        if not isinstance(rows, pa.RecordBatch | pa.Table):
            raise ColumnError(
                f"a log takes record batches, tables and lists of dicts, got {type(rows).__name__}"
            )
        pieces = [(piece.num_rows, _encode(piece)) for piece in _pieces(rows)]
        with self._transaction("BEGIN IMMEDIATE") as connection:
            end = _fact(connection, "end")
            last_byte = _fact(connection, "last_byte")
            for num_rows, data in pieces:
                last_byte += len(data)
                connection.execute(
                    "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
                    (end, num_rows, self.clock.time(), last_byte, zlib.crc32(data), data),
                )
                end += num_rows
            facts = (("end", end), ("last_byte", last_byte))
            connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
            self._drop_old(connection)
        with self._appended:
            self._appended.notify_all()
        return end

    def trim(self) -> int:
        """Drop what retention no longer keeps, as every append does; return how many rows that were."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            before = _first(connection)
            self._drop_old(connection)
            return _first(connection) - before

    def select(self, names: Iterable[str]) -> Log:
        """Return the same log, decoding only these columns when it is read."""
        selected = copy.copy(self)
        chosen = dict.fromkeys(names)
        selected._columns = tuple(n for n in chosen if self._columns is None or n in self._columns)
        return selected

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Raises
        ------
        StreamError
            If retention has dropped the next row (see `on_loss`), or the log ends before it.
        """
        chunks = self._read(positions.get(PARTITION, 0), max_rows, stop)
        return chunks if self.rate is None else pace(chunks, self.rate, stop, self.clock)

    def behind(self, positions: Positions) -> tuple[int, str]:
        """Return how many rows lie after `positions`."""
        with self._transaction("BEGIN") as connection:
            at = max(positions.get(PARTITION, 0), _first(connection))
            return max(0, _fact(connection, "end") - at), "rows"

    def schema(self) -> pa.Schema:
        """Return the columns of the newest batch; none if the log is empty."""
        with self._transaction("BEGIN") as connection:
            row = connection.execute("SELECT data FROM batches ORDER BY first DESC LIMIT 1").fetchone()
        if row is None:
            return NO_COLUMNS
        try:
            return self._decode(row[0]).schema
        except (pa.ArrowException, OSError) as error:
            raise StreamError(f"log {str(self.path)!r}: the newest batch is damaged: {error}") from error

    def close(self) -> None:
        """Close the file. Iterators of `read` keep their own hold of it."""
        with self._writing:
            self._connection.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _read(self, position: int, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Read batch by batch."""
        with closing(self._open()) as connection:
            while not stop.is_set():
                version = _version(connection)
                stored = self._load(connection, position)
                if stored is None:
                    if not self.follow:
                        return
                    self._wait(connection, version, stop)
                    continue
                first, num_rows, checksum, data = stored
                if first > position:
                    yield self._lost(position, first)
                    position = first
                    continue
                try:
                    if zlib.crc32(data) != checksum:
                        raise pa.ArrowInvalid("the checksum is wrong")
                    batch = self._decode(data)
                    if batch.num_rows != num_rows:
                        raise pa.ArrowInvalid(f"{batch.num_rows} rows instead of {num_rows}")
                except StreamError:
                    raise
                except (pa.ArrowException, OSError) as error:
                    gap = f"rows {position} to {first + num_rows}: {error}"
                    reject = Reject(PARTITION, position, "damaged batch in the log", gap)
                    position = first + num_rows
                    yield skip_to(PARTITION, position, [reject])
                    continue
                for at in range(position - first, num_rows, max_rows):
                    piece = batch.slice(at, max_rows)
                    position = first + at + piece.num_rows
                    yield Chunk(piece, PARTITION, position)
                    if stop.is_set():
                        return

    def _load(self, connection: sqlite3.Connection, position: int) -> tuple[int, int, int, bytes] | None:
        """Return the stored batch that holds a row, or else the next one; None at the end."""
        try:
            # One transaction, so that the end belongs to the batches that are seen.
            connection.execute("BEGIN")
            row: tuple[int, int, int, bytes] | None = connection.execute(
                "SELECT first, num_rows, checksum, data FROM batches WHERE first >= "
                "coalesce((SELECT max(first) FROM batches WHERE first <= ?1), 0) "
                "AND first + num_rows > ?1 ORDER BY first LIMIT 1",
                (position,),
            ).fetchone()
            end = _fact(connection, "end")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        if position > end:
            raise StreamError(
                f"log {str(self.path)!r} is shorter than its position: it ends at row {end}, "
                f"position {position}; the file was replaced"
            )
        if row is None and position < end:
            return end, 0, 0, b""
        return row

    def _lost(self, position: int, first: int) -> Chunk:
        """Tell that rows were dropped before they were read."""
        gap = f"rows {position} to {first}"
        if self.on_loss == "raise":
            raise StreamError(
                f"log {str(self.path)!r}: {gap} were dropped by retention before they were read; "
                f"keep more, or pass on_loss='skip' to go on from row {first}"
            )
        reject = Reject(PARTITION, position, "dropped by retention before it was read", gap)
        return skip_to(PARTITION, first, [reject])

    def _wait(self, connection: sqlite3.Connection, version: int, stop: threading.Event) -> None:
        """Return when something was committed since `version`, or when `stop` is set."""
        with self._appended:
            while not stop.is_set() and _version(connection) == version:
                self._appended.wait(_POLL_S)

    def _decode(self, data: bytes) -> pa.RecordBatch:
        """Return a stored batch, with the wanted columns that it has."""
        wanted = self._columns
        with pa.ipc.open_stream(data) as stream:
            if wanted is None:
                return stream.read_next_batch()
            if isinstance(self.rate, EventPace):
                wanted = (*wanted, self.rate.column)
            names = stream.schema.names
        included = [i for i, name in enumerate(names) if name in wanted]
        if not included:
            raise StreamError(f"log {str(self.path)!r} has none of the columns {wanted}; it has {names}")
        with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(included_fields=included)) as stream:
            return stream.read_next_batch()

    def _drop_old(self, connection: sqlite3.Connection) -> None:
        """Drop batches from the oldest on, as retention says."""
        if self.retention_rows is not None:
            keep = _fact(connection, "end") - self.retention_rows
            self._drop_before(connection, "first + num_rows > ?", keep)
        if self.retention_bytes is not None:
            keep = _fact(connection, "last_byte") - self.retention_bytes
            self._drop_before(connection, "last_byte > ?", keep)
        if self.retention_s is not None:
            self._drop_before(connection, "time > ?", self.clock.time() - self.retention_s)

    def _drop_before(self, connection: sqlite3.Connection, kept: str, value: float) -> None:
        """Drop the batches before the first that is kept: a gap in the middle never appears."""
        first = f"(SELECT first FROM batches WHERE {kept} ORDER BY first LIMIT 1)"
        end = "(SELECT value FROM facts WHERE name = 'end')"
        connection.execute(f"DELETE FROM batches WHERE first < coalesce({first}, {end})", (value,))

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        """Run statements whole or not at all."""
        with self._writing:
            try:
                self._connection.execute(begin)
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                finally:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def _open(self) -> sqlite3.Connection:
        """Open a connection that any thread may use, one at a time."""
        try:
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return connection

    def _prepare(self) -> None:
        """Make the tables of a new log; check the format of an old one."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            for statement in _TABLES.split(";")[:-1]:
                connection.execute(statement)
            connection.execute("INSERT OR IGNORE INTO facts VALUES ('format', ?)", (_FORMAT,))
            found = _fact(connection, "format")
        if found != _FORMAT:
            raise StreamError(f"log {str(self.path)!r} has format {found}; this version reads {_FORMAT}")

    def _failed(self, error: sqlite3.Error) -> StreamError:
        """Say that SQLite cannot do what it should."""
        return StreamError(f"log {str(self.path)!r}: {error}")


def _fact(connection: sqlite3.Connection, name: str) -> int:
    """Return a number that the log keeps; 0 if it was not written yet."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else 0


def _first(connection: sqlite3.Connection) -> int:
    """Return the offset of the oldest row."""
    row = connection.execute("SELECT min(first) FROM batches").fetchone()
    return _fact(connection, "end") if row[0] is None else int(row[0])


def _version(connection: sqlite3.Connection) -> int:
    """Return a number that changes whenever another connection commits."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def _encode(batch: pa.RecordBatch) -> bytes:
    """Return a batch as an Arrow IPC stream."""
    try:
        # What is not valid must not get into the log: it would come back as a crash of each reader.
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ColumnError(f"the batch to append is not valid: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    data = sink.getvalue()
    if data.size > _BLOB_BYTES:
        raise ColumnError(f"a row to append takes {data.size} bytes; the log holds {_BLOB_BYTES} at most")
    return bytes(memoryview(data))


def _pieces(rows: pa.RecordBatch | pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the rows as batches of at most about `_PIECE_BYTES`."""
    batches = rows.to_batches() if isinstance(rows, pa.Table) else [rows]
    for batch in batches:
        count = max(1, -(-batch.nbytes // _PIECE_BYTES))
        step = max(1, -(-batch.num_rows // count))
        for first in range(0, batch.num_rows, step):
            yield batch.slice(first, step)


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
            time.sleep(_POLL_S)

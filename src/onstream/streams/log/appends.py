"""Appending to a log: exactly once for each sequence number of a writer, many waiting appends in one sync."""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from onstream.errors import ColumnError, OnstreamError, RequestError, StreamError
from onstream.streams.log.file import LogFile, fact

__all__ = ["Append", "Appended", "Appender", "RefusedError", "encode"]

PIECE_BYTES = 64 << 20
_BLOB_BYTES = 1_000_000_000
_WRITER_CHARACTERS = 200
_LARGEST = 2**63 - 1

# One group is one transaction: a bound on it bounds how long others wait for the file.
_GROUP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Appended:
    """Where appended rows are in a log.

    Attributes
    ----------
    first : int
        Offset of the first of them.
    end : int
        Offset after the last of them.
    """

    first: int
    end: int


@dataclass(slots=True)
class Append:
    """Rows that wait to be appended, and what became of them.

    Raises
    ------
    ColumnError
        If a row is larger than SQLite can hold, or an array is not valid.
    RequestError
        If there is a sequence number without a writer or a writer without one, or they are out of range.
    """

    rows: pa.RecordBatch | pa.Table | Sequence[pa.RecordBatch]
    writer: str
    sequence: int | None
    answer: bool
    time: float
    condition: Callable[[sqlite3.Connection], bool] | None = None
    pieces: list[tuple[int, int, bytes]] = field(init=False)
    made: Appended | None = None
    error: BaseException | None = None

    def __post_init__(self) -> None:
        """Check the sequence number and encode the rows."""
        if bool(self.writer) != (self.sequence is not None):
            raise RequestError(
                f"a writer and a sequence number go together, got writer {self.writer!r} and "
                f"sequence {self.sequence!r}"
            )
        if len(self.writer) > _WRITER_CHARACTERS or not self.writer.isprintable():
            raise RequestError(f"a writer is at most {_WRITER_CHARACTERS} printable characters")
        if self.sequence is not None and not 0 <= self.sequence <= _LARGEST:
            raise RequestError(f"a sequence number is at least 0 and below 2**63, got {self.sequence}")
        encoded = ((piece.num_rows, encode(piece)) for piece in _pieces(self.rows))
        self.pieces = [(num_rows, zlib.crc32(data), data) for num_rows, data in encoded]

    @property
    def checksum(self) -> int:
        """Of all pieces."""
        return zlib.crc32(repr([(num_rows, checksum) for num_rows, checksum, _ in self.pieces]).encode())

    @property
    def size_bytes(self) -> int:
        """Of all pieces."""
        return sum(len(data) for *_, data in self.pieces)

    @property
    def settled(self) -> bool:
        """Whether it is known what became of them."""
        return self.made is not None or self.error is not None


class RefusedError(RequestError):
    """The condition of an append did not hold: nothing was written."""


class Appender:
    """Append for all threads of a process: who has the turn writes for those who wait for it."""

    def __init__(self, file: LogFile, drop_old: Callable[[sqlite3.Connection], None]) -> None:
        self._file = file
        self._drop_old = drop_old
        self._lock = threading.Lock()
        self._waiting: list[Append] = []

    def append(self, rows: Append) -> Appended:
        """Append; durable when this returns."""
        with self._lock:
            self._waiting.append(rows)
        with self._file.turn:
            while not rows.settled:
                self._write(self._group())
        if rows.error is not None:
            if isinstance(rows.error, OnstreamError):
                # Several threads may have to raise the same failure, each with a traceback of its own.
                raise type(rows.error)(*rows.error.args) from rows.error
            raise StreamError(f"log {str(self._file.path)!r}: the rows were not appended") from rows.error
        assert rows.made is not None
        return rows.made

    def _group(self) -> list[Append]:
        """Take the oldest that wait, up to `_GROUP_BYTES`."""
        with self._lock:
            size = count = 0
            while count < len(self._waiting) and (count == 0 or size <= _GROUP_BYTES):
                size += self._waiting[count].size_bytes
                count += 1
            group, self._waiting[:count] = self._waiting[:count], []
        return group

    def _write(self, group: list[Append]) -> None:
        """Append a group in one transaction."""
        made: list[tuple[Append, Appended | RequestError]] = []
        try:
            with self._file.write() as connection:
                for rows in group:
                    try:
                        made.append((rows, _append(connection, rows)))
                    except RequestError as error:
                        made.append((rows, error))
                self._drop_old(connection)
        except BaseException as error:
            for rows in group:
                rows.error = error
            if not isinstance(error, OnstreamError):
                raise
            return
        for rows, outcome in made:
            if isinstance(outcome, Appended):
                rows.made = outcome
            else:
                rows.error = outcome


def encode(batch: pa.RecordBatch) -> bytes:
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


def _append(connection: sqlite3.Connection, rows: Append) -> Appended:
    """Append, or tell where the same was appended before. A RequestError leaves nothing written."""
    if rows.writer and (before := _repeated(connection, rows)) is not None:
        return before
    if rows.condition is not None and not rows.condition(connection):
        raise RefusedError("the condition of this append does not hold")
    first = end = fact(connection, "end")
    last_byte = fact(connection, "last_byte")
    for num_rows, checksum, data in rows.pieces:
        last_byte += len(data)
        connection.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)",
            (end, num_rows, rows.time, last_byte, checksum, data),
        )
        end += num_rows
    facts = (("end", end), ("last_byte", last_byte))
    connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
    if rows.answer and end > first:
        connection.execute("INSERT INTO asked VALUES (?, ?)", (first, end))
    if rows.writer:
        connection.execute(
            "INSERT INTO appends SELECT writer, sequence, first, end, checksum FROM writers WHERE writer = ?",
            (rows.writer,),
        )
        connection.execute(
            "INSERT OR REPLACE INTO writers VALUES (?, ?, ?, ?, ?)",
            (rows.writer, rows.sequence, first, end, rows.checksum),
        )
    return Appended(first, end)


def _repeated(connection: sqlite3.Connection, rows: Append) -> Appended | None:
    """Return where a repeated append went the first time; None if it is new."""
    newest = connection.execute(
        "SELECT sequence, first, end, checksum FROM writers WHERE writer = ?", (rows.writer,)
    ).fetchone()
    assert rows.sequence is not None
    if newest is None or rows.sequence > newest[0]:
        return None
    known = newest
    if rows.sequence != newest[0]:
        known = connection.execute(
            "SELECT sequence, first, end, checksum FROM appends WHERE writer = ? AND sequence = ?",
            (rows.writer, rows.sequence),
        ).fetchone()
    what = f"writer {rows.writer!r}, sequence {rows.sequence}"
    if known is None:
        raise RequestError(
            f"{what}: this writer went on to {newest[0]}, and of this number nothing is known (any more); "
            f"sequence numbers only grow"
        )
    _, first, end, checksum = known
    if checksum != rows.checksum:
        raise RequestError(
            f"{what}: other rows were appended under this number before (rows {first} to {end}); "
            f"a repeat must bring the same rows"
        )
    if rows.answer and end > first and not _is_asked(connection, first):
        raise RequestError(
            f"{what}: these rows were appended before without asking for an answer, or have been dropped"
        )
    return Appended(first, end)


def _is_asked(connection: sqlite3.Connection, first: int) -> bool:
    return connection.execute("SELECT 1 FROM asked WHERE first = ?", (first,)).fetchone() is not None


def _pieces(rows: pa.RecordBatch | pa.Table | Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows as batches of at most about `PIECE_BYTES`."""
    if isinstance(rows, pa.Table):
        rows = rows.to_batches()
    batches = [rows] if isinstance(rows, pa.RecordBatch) else rows
    for batch in batches:
        count = max(1, -(-batch.nbytes // PIECE_BYTES))
        step = max(1, -(-batch.num_rows // count))
        for first in range(0, batch.num_rows, step):
            yield batch.slice(first, step)

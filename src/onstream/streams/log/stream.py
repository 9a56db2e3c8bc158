"""The embedded durable log: what is appended is on disk when the call returns, and can be read again."""

from __future__ import annotations

import copy
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pyarrow as pa

from onstream.contracts import Chunk, Learned, Positions, Reject
from onstream.errors import ColumnError, JobError, StreamError
from onstream.streams.chunks import NO_COLUMNS, skip_to
from onstream.streams.log.answers import PARTITION, Answered, Answers
from onstream.streams.log.appends import Append, Appended, Appender, RefusedError
from onstream.streams.log.file import POLL_S, LogFile, data_version, fact, first_row
from onstream.streams.pace import SYSTEM_CLOCK, Clock, EventPace, Rate, check_rate, pace

__all__ = ["PARTITION", "Answered", "Appended", "Log"]


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
    the same process, of the same `Log`, wakes at once, another within some 5 ms.

    The file has a table `batches` (first, num_rows, time, last_byte, checksum, data): offset of the first
    row, number of rows, seconds since 1970, bytes appended so far, CRC-32 of the data, and one batch as an
    Arrow IPC stream. Tables `writers` (the newest append of each) and `appends` (those before it) say which
    sequence numbers went where, and `asked` and `answers` who wants to hear what the model made of its rows.
    Space of dropped batches is used again; the file does not shrink.

    Examples
    --------
    >>> import tempfile, threading
    >>> log = Log(tempfile.mkdtemp() + "/clicks.db", follow=False)
    >>> log.append(pa.record_batch({"user": [7, 8]}))
    Appended(first=0, end=2)
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
        self._file = LogFile(self.path)
        self._appender = Appender(self._file, self._drop_old)
        self._answers = Answers(self._file)

    @property
    def live(self) -> bool:
        """Whether it follows what is appended or gives rows at a pace."""
        return self.follow or self.rate is not None

    @property
    def first(self) -> int:
        """The offset of the oldest row that is there; `end` if there is none."""
        with self._file.look() as connection:
            return first_row(connection)

    @property
    def end(self) -> int:
        """The offset after the newest row."""
        with self._file.look() as connection:
            return fact(connection, "end")

    def append(
        self,
        rows: pa.RecordBatch | pa.Table | list[dict[str, Any]],
        *,
        writer: str = "",
        sequence: int | None = None,
        answer: bool = False,
    ) -> Appended:
        """Append rows; they are durable when this returns, and with a sequence number there exactly once.

        Parameters
        ----------
        rows : pyarrow.RecordBatch, pyarrow.Table, or list of dict
            Dicts are rows, by column name.
        writer : str, optional
            Who appends: a name of its own for everyone who counts sequence numbers.
        sequence : int, optional
            Number of this append. A writer's numbers grow, with or without gaps; repeating one, with the same
            rows in the same batches, appends nothing and returns what was returned the first time.
        answer : bool
            Whether `answers` will be asked for these rows.

        Returns
        -------
        Appended
            Offsets of the first of them, and after the last.

        Raises
        ------
        StreamError
            If the rows cannot be written, for instance because the disk is full; then none of them is there.
        ColumnError
            If a row is larger than SQLite can hold, an array is not valid, or there are no columns.
        RequestError
            If the number was used for other rows, or is lower than the writer's newest and not known (any
            more): the numbers before the newest are forgotten with their rows, by retention.

        Notes
        -----
        Costs one sync of the disk, so append many rows at once; appends that other threads of this process
        wait for at the same time share it. Batches over 64 MiB are stored in pieces. That a number was used
        is known across threads, processes, restarts and crashes: it is written with the rows.
        """
        if isinstance(rows, list):
            rows = pa.RecordBatch.from_pylist(rows)
        if not isinstance(rows, pa.RecordBatch | pa.Table):
            raise ColumnError(
                f"a log takes record batches, tables and lists of dicts, got {type(rows).__name__}"
            )
        if rows.num_rows and not rows.num_columns:
            raise ColumnError(f"{rows.num_rows} rows to append have no columns")
        made = self._appender.append(Append(rows, writer, sequence, answer, self.clock.time()))
        with self._appended:
            self._appended.notify_all()
        return made

    def append_if(
        self, condition: Callable[[sqlite3.Connection], bool], rows: Sequence[pa.RecordBatch]
    ) -> Appended | None:
        """Append rows in one transaction with statements on this file that say whether to.

        Parameters
        ----------
        condition : callable
            Runs its statements, and returns whether to append; if not, it must have changed nothing.
        rows : sequence of pyarrow.RecordBatch
            Whose schemas may differ.

        Returns
        -------
        Appended or None
            None if `condition` said no.

        Raises
        ------
        StreamError, ColumnError
            As `append`.
        """
        waiting = Append(rows, "", None, False, self.clock.time(), condition=condition)
        try:
            made = self._appender.append(waiting)
        except RefusedError:
            return None
        with self._appended:
            self._appended.notify_all()
        return made

    @property
    def file(self) -> LogFile:
        """The SQLite file, for what else of this room keeps facts in it."""
        return self._file

    def asked(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges among rows `first` to `end` whose writers wait for an answer, in order."""
        return self._answers.asked(first, end)

    def answer(self, learned: Learned) -> None:
        """Store what the model made of a batch, for those of its rows whose writers asked.

        Notes
        -----
        The first answer to a row stays: a trainer that goes on from a checkpoint and learns the row again
        does not change it. Nothing but one query is done if nobody asked. Answers go with their rows when
        retention drops them.
        """
        self._answers.write(learned)

    def answers(
        self, first: int, end: int, *, timeout_s: float | None = None, stop: threading.Event | None = None
    ) -> Answered:
        """Return what the model made of rows before it learned them, once all of them are learned.

        Parameters
        ----------
        first, end : int
            Offsets, as `append` returned them for rows appended with `answer`.
        timeout_s : float, optional
            How long to wait; without it, as long as it takes.
        stop : threading.Event, optional
            Ends the wait.

        Raises
        ------
        DeadlineError
            If the rows were not learned within `timeout_s`.
        UnavailableError
            If `stop` was set before.
        RequestError
            If there are no such rows, or retention has dropped them.
        """
        return self._answers.wait(first, end, timeout_s, stop)

    def arrivals(self, first: int, end: int, *, limit: int = 1000) -> list[float]:
        """Return when batches whose first row is among these were appended, in seconds since 1970, oldest first.

        Of more than `limit` batches, an even share of them.
        """
        with self._file.look() as connection:
            rows = connection.execute(
                "SELECT time FROM batches WHERE first >= ? AND first < ? ORDER BY first", (first, end)
            ).fetchall()
        return [float(time) for (time,) in rows[:: -(-len(rows) // limit) or 1]]

    def trim(self) -> int:
        """Drop what retention no longer keeps, as every append does; return how many rows that were."""
        with self._file.write() as connection:
            before = first_row(connection)
            self._drop_old(connection)
            return first_row(connection) - before

    def select(self, names: Iterable[str]) -> Log:
        """Return the same log, decoding only these columns when it is read."""
        selected = copy.copy(self)
        chosen = dict.fromkeys(names)
        selected._columns = tuple(n for n in chosen if self._columns is None or n in self._columns)
        return selected

    def replay(self, *, follow: bool) -> Log:
        """Return the same log, read without a pace, and waiting for more at the end or not."""
        replayed = copy.copy(self)
        replayed.follow, replayed.rate = follow, None
        return replayed

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
        with self._file.look() as connection:
            at = max(positions.get(PARTITION, 0), first_row(connection))
            return max(0, fact(connection, "end") - at), "rows"

    def schema(self) -> pa.Schema:
        """Return the columns of the newest batch; none if the log is empty."""
        with self._file.look() as connection:
            row = connection.execute("SELECT data FROM batches ORDER BY first DESC LIMIT 1").fetchone()
        if row is None:
            return NO_COLUMNS
        try:
            return self._decode(row[0]).schema
        except (pa.ArrowException, OSError) as error:
            raise StreamError(f"log {str(self.path)!r}: the newest batch is damaged: {error}") from error

    def close(self) -> None:
        """Close the file. Iterators of `read` keep their own hold of it."""
        self._file.close()

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
        with closing(self._file.open()) as connection:
            while not stop.is_set():
                version = data_version(connection)
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
            end = fact(connection, "end")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._file.failed(error) from error
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
            while not stop.is_set() and data_version(connection) == version:
                self._appended.wait(POLL_S)

    def _decode(self, data: bytes) -> pa.RecordBatch:
        """Return a stored batch with the wanted columns that it has; with all of its own if it has none of them.

        Anyone may append. Such a batch must not end the reading: its rows are rejected as those of any other
        batch that lacks a column.
        """
        wanted = self._columns
        with pa.ipc.open_stream(data) as stream:
            if wanted is None:
                return stream.read_next_batch()
            if isinstance(self.rate, EventPace):
                wanted = (*wanted, self.rate.column)
            names = stream.schema.names
        included = [i for i, name in enumerate(names) if name in wanted]
        options = pa.ipc.IpcReadOptions(included_fields=included or None)
        with pa.ipc.open_stream(data, options=options) as stream:
            return stream.read_next_batch()

    def _drop_old(self, connection: sqlite3.Connection) -> None:
        """Drop batches from the oldest on, as retention says."""
        if self.retention_rows is not None:
            keep = fact(connection, "end") - self.retention_rows
            self._file.drop_before(connection, "first + num_rows > ?", keep)
        if self.retention_bytes is not None:
            keep = fact(connection, "last_byte") - self.retention_bytes
            self._file.drop_before(connection, "last_byte > ?", keep)
        if self.retention_s is not None:
            self._file.drop_before(connection, "time > ?", self.clock.time() - self.retention_s)

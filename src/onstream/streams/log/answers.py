"""Answers of a log: what the model made of rows before it learned them, for those who asked."""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from onstream.contracts import Array, Label, Learned, Predictions
from onstream.errors import DeadlineError, RequestError, StreamError, UnavailableError
from onstream.streams.log.file import POLL_S, LogFile, fact, first_row

__all__ = ["PARTITION", "Answered", "Answers", "prediction_columns"]

PARTITION = "log"
"""The name of the only partition of a log."""

_UNCLEAR = "the predictions cannot be told apart: rows beside these were damaged or dropped"
_NOT_LEARNED = "not learned: the loss or gradients of its batch were not finite"


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model made of rows of a log before it learned them.

    Attributes
    ----------
    first, end : int
        Offsets of the rows.
    predictions : pyarrow.RecordBatch
        One column a label, one row a row: float32, or a fixed-size list of them for classes. NaN where a row
        was rejected.
    rejects : dict of int to str
        Why rows were not learned, by their place counted from `first`.
    loss : float
        Of the batches in which they were learned, weighted by the rows in each; NaN if none was.
    examples : int
        How many examples the model had learned after the last of them.
    """

    first: int
    end: int
    predictions: pa.RecordBatch
    rejects: dict[int, str]
    loss: float
    examples: int


class Answers:
    """The answers in the file of a log."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._new = threading.Condition()

    def asked(self, first: int, end: int) -> list[tuple[int, int]]:
        """Return the ranges among these rows whose writers want an answer and have none, in order."""
        with self._file.look() as connection:
            return _open_ranges(connection, first, end)

    def write(self, learned: Learned) -> None:
        """Store the answers to those rows of a batch that were asked for."""
        first = learned.before.get(PARTITION, 0)
        end = learned.batch.positions.get(PARTITION, first)
        if not self.asked(first, end):
            return
        columns, rejects = _by_row(learned, first, end)
        loss = math.nan if learned.outcome is None else float(learned.outcome.loss)
        # The disk is not waited for, as the trainer would: an answer is lost only with the power, and only
        # until the next append is synced.
        with self._file.write(durable=False) as connection:
            for begin, stop in _open_ranges(connection, first, end):
                data = _encoded(columns.slice(begin - first, stop - begin))
                why = {at - begin: rejects[at] for at in range(begin, stop) if at in rejects}
                connection.execute(
                    "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                    (begin, stop, loss, learned.examples, json.dumps(why), data),
                )
        with self._new:
            self._new.notify_all()

    def wait(self, first: int, end: int, timeout_s: float | None, stop: threading.Event | None) -> Answered:
        """Return the answers to all of these rows as one, once they are there."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        version = None
        while True:
            now = self._file.version()
            if now != version:
                version = now
                if (answered := self._find(first, end)) is not None:
                    return answered
            if stop is not None and stop.is_set():
                raise UnavailableError(f"rows {first} to {end} were not answered before waiting was stopped")
            if deadline is not None and time.monotonic() >= deadline:
                raise DeadlineError(
                    f"rows {first} to {end} are in the log, but were not learned within {timeout_s} s"
                )
            with self._new:
                self._new.wait(POLL_S)

    def _find(self, first: int, end: int) -> Answered | None:
        with self._file.look() as connection:
            stored = connection.execute(
                "SELECT first, end, loss, examples, rejects, data FROM answers "
                "WHERE first >= coalesce((SELECT max(first) FROM answers WHERE first <= ?1), 0) "
                "AND first < ?2 AND end > ?1 ORDER BY first",
                (first, end),
            ).fetchall()
            oldest, last = first_row(connection), fact(connection, "end")
        if not 0 <= first < end <= last:
            raise RequestError(f"there are no rows {first} to {end} in the log; it ends at {last}")
        if first < oldest:
            raise RequestError(f"rows {first} to {oldest} were dropped by retention, with their answers")
        parts = [_part(row, first, end) for row in stored]
        if sum(part.end - part.first for part in parts) < end - first:
            return None
        return parts[0] if len(parts) == 1 else _joined(parts)


def prediction_columns(predictions: Predictions) -> pa.RecordBatch:
    """Return predictions as one column a label: float32, or a fixed-size list of float32 for classes."""
    columns = {name: _column(np.ascontiguousarray(made, np.float32)) for name, made in predictions.items()}
    return pa.RecordBatch.from_pydict(columns)


def _column(made: Array) -> pa.Array:
    if made.ndim == 1:
        return pa.array(made)
    return pa.FixedSizeListArray.from_arrays(pa.array(made.reshape(-1)), made.shape[1])


def _open_ranges(connection: sqlite3.Connection, first: int, end: int) -> list[tuple[int, int]]:
    """Return the asked ranges without the parts that are answered."""
    found: list[tuple[int, int]] = []
    for asked_first, asked_end in _overlapping(connection, "asked", first, end):
        begin, stop = max(first, asked_first), min(end, asked_end)
        for done_first, done_end in _overlapping(connection, "answers", begin, stop):
            if done_first > begin:
                found.append((begin, done_first))
            begin = max(begin, done_end)
        if begin < stop:
            found.append((begin, stop))
    return found


def _overlapping(connection: sqlite3.Connection, table: str, first: int, end: int) -> list[tuple[int, int]]:
    """Return the ranges of a table that share rows with these, in order."""
    # Ranges of one table never overlap, so at most one begins before `first` and reaches into it.
    found: list[tuple[int, int]] = connection.execute(
        f"SELECT first, end FROM {table} "
        f"WHERE first >= coalesce((SELECT max(first) FROM {table} WHERE first <= ?1), 0) "
        f"AND first < ?2 AND end > ?1 ORDER BY first",
        (first, end),
    ).fetchall()
    return found


def _by_row(learned: Learned, first: int, end: int) -> tuple[pa.RecordBatch, dict[int, str]]:
    """Return predictions of each row of a range, NaN for the rejected, and the reasons by offset."""
    rejects = {r.position: r.reason for r in learned.batch.rejects if r.partition == PARTITION}
    good = np.ones(end - first, bool)
    good[[at - first for at in rejects if first <= at < end]] = False
    # A damaged batch is one reject and many rows: then nobody can tell which rows are left.
    clear = np.count_nonzero(good) == learned.batch.num_rows
    if not clear:
        rejects = dict.fromkeys(range(first, end), _UNCLEAR)
    elif learned.outcome is not None and learned.outcome.dropped:
        rejects |= {first + int(at): _NOT_LEARNED for at in np.flatnonzero(good)}
    made = learned.outcome.predictions if learned.outcome is not None and clear else {}
    columns = {label.name: _spread(label, made.get(label.name), good) for label in learned.labels}
    return prediction_columns(columns), rejects


def _spread(label: Label, made: Array | None, good: Array) -> Array:
    """Return predictions for all rows, NaN where a row is not good."""
    shape = (len(good), label.classes) if label.classes else (len(good),)
    spread = np.full(shape, np.nan, np.float32)
    if made is not None:
        spread[good] = made
    return spread


def _encoded(columns: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns.schema) as stream:
        stream.write_batch(columns)
    return bytes(memoryview(sink.getvalue()))


def _part(row: tuple[int, int, float | None, int, str, bytes], first: int, end: int) -> Answered:
    """Return what a stored answer says of rows between `first` and `end`."""
    stored_first, stored_end, loss, examples, rejects, data = row
    begin, stop = max(first, stored_first), min(end, stored_end)
    try:
        with pa.ipc.open_stream(data) as stream:
            columns = stream.read_next_batch().slice(begin - stored_first, stop - begin)
    except (pa.ArrowException, OSError) as error:
        raise StreamError(f"the stored answer to rows {stored_first} to {stored_end} is damaged") from error
    moved = {int(at) + stored_first - begin: why for at, why in json.loads(rejects).items()}
    why = {at: reason for at, reason in moved.items() if 0 <= at < stop - begin}
    return Answered(begin, stop, columns, why, math.nan if loss is None else loss, examples)


def _joined(parts: Sequence[Answered]) -> Answered:
    """Return neighbouring answers as one."""
    first = parts[0].first
    if any(not part.predictions.schema.equals(parts[0].predictions.schema) for part in parts):
        raise StreamError(f"rows {first} to {parts[-1].end} were learned with different labels")
    columns = pa.Table.from_batches([part.predictions for part in parts]).combine_chunks().to_batches()
    rejects = {at + part.first - first: why for part in parts for at, why in part.rejects.items()}
    learned = [(part.loss, part.end - part.first) for part in parts if not math.isnan(part.loss)]
    rows = sum(num_rows for _, num_rows in learned)
    loss = sum(loss * num_rows for loss, num_rows in learned) / rows if rows else math.nan
    return Answered(first, parts[-1].end, columns[0], rejects, loss, parts[-1].examples)

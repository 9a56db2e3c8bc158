"""The pace at which a stream gives its rows: rows a second, or as their event times went by."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Chunk
from onstream.errors import ColumnError, JobError
from onstream.streams.chunks import slice_chunk

__all__ = ["SYSTEM_CLOCK", "Clock", "EventPace", "Rate", "SystemClock", "check_rate", "pace"]

STEP_S = 0.1
"""Rows of at most this time are given at once, so that a paced stream flows smoothly."""

SLACK_S = 1.0
"""How far a source may fall behind its pace and still make up for it."""


class Clock(Protocol):
    """Time as a stream sees it; a test passes its own."""

    def time(self) -> float:
        """Return seconds since 1970."""

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after `seconds`, or as soon as `stop` is set."""


class SystemClock:
    """The clock of this machine."""

    def time(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after `seconds`, or as soon as `stop` is set."""
        stop.wait(seconds)


SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class EventPace:
    """Replay rows as their event times went by.

    Parameters
    ----------
    column : str
        The event time: a timestamp, date, or number of seconds. A null or an
        infinite number counts as the time of the row before.
    factor : float, default 1.0
        How many seconds of events go by in one second.
    """

    column: str
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Check the factor."""
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise JobError(f"factor of EventPace({self.column!r}) must be above 0, got {self.factor!r}")


Rate: TypeAlias = float | EventPace


def check_rate(rate: Rate) -> None:
    """Raise JobError if a rate is not above 0."""
    if not isinstance(rate, EventPace) and not (rate > 0 and math.isfinite(rate)):
        raise JobError(f"rate must be a number of rows a second above 0, got {rate!r}")


def pace(
    chunks: Iterable[Chunk], rate: Rate, stop: threading.Event, clock: Clock = SYSTEM_CLOCK
) -> Iterator[Chunk]:
    """Give the rows of `chunks` no faster than `rate`.

    Parameters
    ----------
    chunks : iterable of Chunk
    rate : float or EventPace
        Rows a second, or the pace of an event-time column.
    stop : threading.Event
        Ends the iteration, also in the middle of a wait.
    clock : Clock, optional

    Yields
    ------
    Chunk
        Slices of the chunks, each of at most 0.1 s of rows. The rows and their order do not change.

    Raises
    ------
    ColumnError
        If the rate is an EventPace and the column is missing or is no time.

    Notes
    -----
    Rows with an event time before one that was already seen do not wait. A stream that falls behind its rate
    by more than a second does not make up for it.
    """
    check_rate(rate)
    schedule = _ByEvents(rate) if isinstance(rate, EventPace) else _ByRows(rate)
    for chunk in chunks:
        first = 0
        for num_rows, due in schedule.plan(chunk, clock):
            delay = due - clock.time()
            if delay > 0:
                clock.wait(delay, stop)
            if stop.is_set():
                return
            yield slice_chunk(chunk, first, num_rows)
            first += num_rows
        if chunk.batch.num_rows == 0:
            yield chunk


class _ByRows:
    """A fixed number of rows a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.step = max(1, int(rate * STEP_S))
        self.due = -math.inf

    def plan(self, chunk: Chunk, clock: Clock) -> Iterator[tuple[int, float]]:
        """Yield the rows of each slice and the time from which it may be given."""
        for first in range(0, chunk.batch.num_rows, self.step):
            num_rows = min(self.step, chunk.batch.num_rows - first)
            now = clock.time()
            if self.due < now - SLACK_S:
                self.due = now
            yield num_rows, self.due
            self.due += num_rows / self.rate


class _ByEvents:
    """The differences of event times, divided by the factor."""

    def __init__(self, rate: EventPace) -> None:
        self.rate = rate
        self.newest = -math.inf
        self.begin: tuple[float, float] | None = None

    def plan(self, chunk: Chunk, clock: Clock) -> Iterator[tuple[int, float]]:
        """Yield the rows of each slice and the time from which it may be given."""
        if chunk.batch.num_rows == 0:
            return
        times = np.maximum.accumulate(np.fmax(_seconds(chunk.batch, self.rate.column), self.newest))
        self.newest = float(times[-1])
        if self.begin is None:
            known = times[np.isfinite(times)]
            if not len(known):
                yield chunk.batch.num_rows, -math.inf
                return
            self.begin = float(known[0]), clock.time()
        event, started = self.begin
        after = np.maximum(times - event, 0.0) / self.rate.factor
        steps = np.floor(after / STEP_S)
        bounds = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        for first, end in pairwise(bounds):
            now = clock.time()
            if started + after[first] < now - SLACK_S:
                started = now - float(after[first])
                self.begin = event, started
            yield end - first, started + float(after[first])


def _seconds(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """Return a column of times as seconds; NaN where it is null."""
    if name not in batch.schema.names:
        raise ColumnError(f"EventPace: no column {name!r}; the stream has {batch.schema.names}")
    column = batch.column(name)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if pa.types.is_timestamp(column.type):
        per_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[column.type.unit]
        return _floats(column.cast(pa.int64())) / per_second
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _floats(column)
    raise ColumnError(f"EventPace: column {name!r} must be a timestamp, date or number, got {column.type}")


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    """Return numbers as float64, with NaN where they are null or infinite."""
    filled = pc.fill_null(column.cast(pa.float64(), safe=False), math.nan)
    numbers = np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, math.nan)

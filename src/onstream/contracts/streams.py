"""Streams: where examples come from."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts.values import Positions, State

__all__ = ["Capture", "Chunk", "Keeping", "Reject", "Stateful", "Stream"]


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that could not be used: its place, the reason, and what it held.

    Attributes
    ----------
    partition, position
        Where the row begins in its stream.
    reason : str
        Why, in words that are the same for the same cause, so that reasons can be counted.
    value : str
        The offending value or line, shortened for the record.
    """

    partition: str
    position: int
    reason: str
    value: str = ""


class Capture(Protocol):
    """What a stream must remember besides positions, as it is at one moment. Taking one costs next to nothing."""

    def states(self) -> Mapping[str, State]:
        """Return all of it, by name, from any thread and at any later time.

        A checkpoint writes what is new: a state that is the same object as in the version before, under the same
        name, is not even looked at.
        """

    def figures(self) -> dict[str, float]:
        """Return numbers to report, by name; they may depend on the time of the call."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one partition as they were read.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
    partition : str
    next : int
        The position to read on from after this chunk.
    ends : ndarray of int64, shape (num_rows,), optional
        The position after each row, for partitions whose positions are not row numbers (bytes of a text
        file). Without it, row `i` ends at ``next - num_rows + i + 1``.
    rejects : sequence of Reject
        Rows of this chunk's range that could not be decoded; they are not in `batch`.
    inner : ndarray of int64, shape (num_rows,), optional
        For partitions whose positions are messages of many rows: how many rows of the message at ``ends[i]`` have
        been given with row `i`; 0 where the row is the last of its message. `Positions` then hold it beside the
        position, under the name ``f"{partition}#rows"``.
    state : Capture, optional
        Of a `Stateful` stream: with it and any position within this chunk, its first and last included, reading
        goes on as if it had never stopped.
    again : bool
        These rows were given before: they are learned once more, and no metric counts them. No batch holds rows of
        both kinds.
    """

    batch: pa.RecordBatch
    partition: str
    next: int
    ends: npt.NDArray[np.int64] | None = None
    rejects: Sequence[Reject] = ()
    inner: npt.NDArray[np.int64] | None = None
    state: Capture | None = None
    again: bool = False


@runtime_checkable
class Stream(Protocol):
    """A replayable, partitioned source of examples.

    `live` tells whether it may be silent for long: it follows its source, or gives rows at a pace. Batches of a
    live stream are cut by waiting too, those of others by row count alone.
    """

    @property
    def live(self) -> bool:
        """Whether it may be silent for long."""

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Notes
        -----
        Whoever reads from the same positions sees the same rows in the same order within a partition,
        whatever `max_rows` is. A stream that follows its source blocks while nothing new is there, and
        returns soon after `stop` is set.
        """

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how much lies after `positions` and its unit ("rows" or "bytes"); None if it is unknown."""

    def schema(self) -> pa.Schema:
        """Return the columns that the stream yields, as far as they are known before reading on."""


@runtime_checkable
class Keeping(Protocol):
    """A stream that is told which of its positions are durable, and may ask for a checkpoint before it is due."""

    def kept(self, positions: Positions) -> None:
        """Take note that a checkpoint with these positions is durable.

        Called before `read` with what is read on from, and after each checkpoint, from any thread.
        """

    def asks(self, positions: Positions) -> bool:
        """Return whether a checkpoint is wanted now that everything before `positions` is learned."""

    def release(self) -> None:
        """Let go of what is held for the run: it is over, and nothing more will be kept."""


@runtime_checkable
class Stateful(Protocol):
    """A stream that remembers more than positions."""

    def load(self, states: Mapping[str, State]) -> None:
        """Let the next `read` go on from what `Capture.states` returned. A state is read when it is asked for."""

"""What a stream may be able to do besides being read: all of it is optional, and not done where it is missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from onstream.contracts.streams import Stream

__all__ = [
    "Expecting",
    "Holding",
    "Noting",
    "Peeking",
    "Placing",
    "Selecting",
    "Sharing",
    "TakingTurns",
    "expected_partitions",
    "is_shared",
    "peeked",
    "placed",
    "selected",
    "take_notes",
    "takes_turns",
]


@runtime_checkable
class Peeking(Protocol):
    """Others may hear of who reads it; a look at it is something else."""

    def peek(self) -> Stream:
        """Return the same stream for a look at its beginning, of which nobody hears."""


@runtime_checkable
class Selecting(Protocol):
    """It can save the decoding of columns that nobody wants."""

    def select(self, names: Sequence[str]) -> Stream:
        """Return the same stream, giving these of its columns."""


@runtime_checkable
class Placing(Protocol):
    """It keeps files while it is read."""

    def placed(self, folder: Path) -> Stream:
        """Return the same stream with its files in a folder, unless it was told another."""


@runtime_checkable
class Holding(Protocol):
    """It can leave some partitions unread for a while."""

    def hold(self, partitions: Collection[str]) -> None:
        """Give no more rows of these partitions, until called again without them."""


@runtime_checkable
class Expecting(Protocol):
    """It knows of partitions from which nothing has come yet."""

    def expected_partitions(self) -> Collection[str]:
        """Return the partitions that it will give, as far as it knows them; more may come to be known."""


@runtime_checkable
class TakingTurns(Protocol):
    """It reads its partitions one after the other, if `in_turn` says so: one that follows ends the one before."""

    @property
    def in_turn(self) -> bool:
        """Whether it does."""


@runtime_checkable
class Sharing(Protocol):
    """Others may read a part of its partitions, if `shared` says so."""

    @property
    def shared(self) -> bool:
        """Whether they do."""


@runtime_checkable
class Noting(Protocol):
    """It has something to tell people now and then; so may learners."""

    @property
    def notes(self) -> list[str]:
        """Sentences; whoever tells them takes them away."""


def peeked(stream: Stream) -> Stream:
    """Return the stream for a look at its beginning."""
    return stream.peek() if isinstance(stream, Peeking) else stream


def selected(stream: Stream, names: Sequence[str]) -> Stream:
    """Return the stream decoding only these columns, if it can."""
    return stream.select(names) if isinstance(stream, Selecting) else stream


def placed(stream: Stream, folder: Path) -> Stream:
    """Return the stream with a folder of its own to work in, if it wants one."""
    return stream.placed(folder) if isinstance(stream, Placing) else stream


def expected_partitions(stream: Stream) -> Collection[str]:
    """Return the partitions that the stream will give, as far as it knows."""
    return stream.expected_partitions() if isinstance(stream, Expecting) else ()


def takes_turns(stream: Stream) -> bool:
    """Return whether the stream reads its partitions one after the other."""
    return isinstance(stream, TakingTurns) and stream.in_turn


def is_shared(stream: Stream) -> bool:
    """Return whether others may read a part of the stream's partitions."""
    return isinstance(stream, Sharing) and stream.shared


def take_notes(part: object) -> Iterator[str]:
    """Take away, and yield, what a stream or a learner has to tell."""
    if isinstance(part, Noting):
        # Looked at once: a stream around others gathers theirs each time.
        notes = part.notes
        while notes:
            yield notes.pop(0)

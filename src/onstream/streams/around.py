"""A stream around a stream: what it hands through, so that each of these streams says its own alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from onstream.contracts import (
    Holding,
    Keeping,
    Noting,
    Positions,
    State,
    Stateful,
    Stream,
    expected_partitions,
    peeked,
    placed,
    selected,
    takes_turns,
)
from onstream.errors import JobError

__all__ = ["Around"]


class Around(ABC):
    """Hand everything through to the stream within that is asked of a stream, but `read`.

    Parameters
    ----------
    stream : Stream

    Raises
    ------
    JobError
        If it is none.
    """

    def __init__(self, stream: Stream) -> None:
        if not isinstance(stream, Stream):
            raise JobError(f"{type(self).__name__}: stream must be a Stream, got {type(stream).__name__}")
        self.stream = stream

    @property
    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The parameters by name, "stream" among them."""

    def replace(self, **changes: Any) -> Self:
        """Return the same with other parameters."""
        return type(self)(**{**self.settings, **changes})

    def _inner(self, positions: Positions) -> Positions:
        """Return those positions that are of the stream within."""
        return positions

    # ------------------------------------------------------------------------------------ handed through

    @property
    def live(self) -> bool:
        """Whether the stream may be silent for long."""
        return self.stream.live

    @property
    def notes(self) -> list[str]:
        """What people should know of the stream; taken away when told."""
        return self.stream.notes if isinstance(self.stream, Noting) else []

    @property
    def in_turn(self) -> bool:
        """Whether the partitions of the stream come one after the other."""
        return takes_turns(self.stream)

    def peek(self) -> Self:
        """Return the same for a look at its beginning, of which nobody hears."""
        return self.replace(stream=peeked(self.stream))

    def select(self, names: Sequence[str]) -> Self:
        """Return the same, decoding only these columns where the stream can."""
        return self.replace(stream=selected(self.stream, tuple(dict.fromkeys(names))))

    def placed(self, folder: Path) -> Self:
        """Return the same with the stream's files in a folder."""
        return self.replace(stream=placed(self.stream, folder))

    def hold(self, partitions: Collection[str]) -> None:
        """Let the stream give no more rows of these partitions until called again without them, if it can."""
        if isinstance(self.stream, Holding):
            self.stream.hold(partitions)

    def expected_partitions(self) -> Collection[str]:
        """Return the partitions that the stream will give, as far as it knows them before."""
        return expected_partitions(self.stream)

    def schema(self) -> pa.Schema:
        """Return the columns of the stream."""
        return self.stream.schema()

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how much of the stream lies after `positions`."""
        return self.stream.behind(self._inner(positions))

    def load(self, states: Mapping[str, State]) -> None:
        """Let the stream go on from what it remembers."""
        if isinstance(self.stream, Stateful):
            self.stream.load(states)

    def kept(self, positions: Positions) -> None:
        """Tell the stream what is durable."""
        if isinstance(self.stream, Keeping):
            self.stream.kept(self._inner(positions))

    def asks(self, positions: Positions) -> bool:
        """Return whether the stream wants a checkpoint now."""
        return isinstance(self.stream, Keeping) and self.stream.asks(self._inner(positions))

    def release(self) -> None:
        """Let the stream go."""
        if isinstance(self.stream, Keeping):
            self.stream.release()

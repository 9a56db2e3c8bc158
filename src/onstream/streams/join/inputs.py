"""Reading several streams at once."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Literal, Self

from onstream.contracts import Chunk, Holding, Positions, Stream, expected_partitions
from onstream.streams.ahead import Ahead, End

__all__ = ["Inputs"]

# Chunks of one input that wait, besides the one that is being made.
_DEPTH = 2


class Inputs:
    """Several streams, each read ahead in a thread of its own.

    Parameters
    ----------
    streams : sequence of Stream
    positions : sequence of Positions
        Where to begin each.
    max_rows : int
    """

    def __init__(self, streams: Sequence[Stream], positions: Sequence[Positions], max_rows: int) -> None:
        self._streams = streams
        self._stop = threading.Event()
        self._change = threading.Condition()
        self._held: dict[int, frozenset[str]] = {}
        self._readers: list[Ahead[Chunk]] = [
            Ahead(
                stream.read(dict(begin), max_rows=max_rows, stop=self._stop),
                depth=_DEPTH,
                change=self._change,
            )
            for stream, begin in zip(streams, positions, strict=True)
        ]

    def take(self, wanted: Sequence[int], timeout_s: float) -> tuple[int, Chunk | Literal[End.END]] | None:
        """Return the next chunk, or END, of the first of the wanted inputs that has one; None if none came."""
        with self._change:
            self._change.wait_for(lambda: any(self._readers[i].ready for i in wanted), timeout_s)
            chosen = next((i for i in wanted if self._readers[i].ready), None)
        if chosen is None:
            return None
        item = self._readers[chosen].take(0)
        assert item is not None
        return chosen, item

    def hold(self, index: int, partitions: Collection[str]) -> None:
        """Ask an input, if it can, to give nothing of these partitions until asked otherwise."""
        held = frozenset(partitions)
        stream = self._streams[index]
        if isinstance(stream, Holding) and held != self.held(index):
            stream.hold(held)
            self._held[index] = held

    def held(self, index: int) -> frozenset[str]:
        """Return the partitions of which an input was asked to give nothing, if it can."""
        return self._held.get(index, frozenset())

    def expected(self, index: int) -> Collection[str]:
        """Return the partitions that an input will give, as far as it knows them before."""
        return expected_partitions(self._streams[index])

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading."""
        self._stop.set()
        for reader in self._readers:
            reader.close()

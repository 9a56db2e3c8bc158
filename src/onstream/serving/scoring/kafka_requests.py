"""Requests of a topic, taken in pieces by a member of a consumer group."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from onstream.contracts import Chunk, Positions
from onstream.serving.scoring.work import Piece
from onstream.streams import Ahead, Kafka
from onstream.streams.chunks import positions_after, slice_chunk

__all__ = ["KafkaRequests"]

_TAKE_S = 0.05
_CHUNK_ROWS = 4096


class KafkaRequests:
    """Requests of a consumer group.

    Parameters
    ----------
    source : Kafka
        With a group.
    find : callable, optional
        Given partitions that are about to be read, returns where their results end, if they are kept elsewhere than
        in the group.
    """

    def __init__(self, source: Kafka, find: Callable[[Sequence[str]], Positions] | None = None) -> None:
        assert source.group is not None
        self.source = source
        self._done: Positions = {}
        self._rest: Chunk | None = None
        # Partitions are given up once the results of what was taken of them are written.
        source.kept({})
        if find is not None:
            source.resume_from(find)
        self._stop = threading.Event()
        self._chunks: Ahead[Chunk] = Ahead(
            source.read({}, max_rows=_CHUNK_ROWS, stop=self._stop), depth=1, stop=self._stop
        )

    def take(self, max_rows: int, stop: threading.Event) -> Piece | None:
        """Wait for requests and take some; None once `stop` is set, or at the end of a topic that ends.

        A piece is of one partition, since another process may take over one partition and not another, and ends with
        a message, since offsets know nothing smaller: a message of many rows may make it larger than `max_rows`.
        """
        taken: list[Chunk] = []
        room = max_rows
        while not stop.is_set():
            chunk = self._next()
            if chunk is None:
                continue
            if not isinstance(chunk, Chunk):
                return None
            num_rows = min(_whole(chunk, room), chunk.batch.num_rows)
            if num_rows < chunk.batch.num_rows:
                self._rest = slice_chunk(chunk, num_rows, chunk.batch.num_rows - num_rows)
                chunk = slice_chunk(chunk, 0, num_rows)
            taken.append(chunk)
            room = max(0, room - num_rows)
            # A message that goes on in the next chunk: no other partition comes in between.
            if not _ends_inside(chunk):
                break
        if not taken or _ends_inside(taken[-1]):
            return None
        if not any(chunk.batch.num_rows or chunk.rejects for chunk in taken):
            self.finish(positions_after(taken[-1]))
            return self.take(max_rows, stop)
        return Piece(taken, positions_after(taken[-1]))

    def finish(self, positions: Positions) -> None:
        """Take note that everything before `positions` has its result."""
        self._done |= positions
        self.source.kept(dict(self._done))

    def give_back(self, piece: Piece) -> None:
        """Let another process have the requests of a piece: nothing of it was committed."""

    def behind(self) -> tuple[int, str] | None:
        """Return how many requests have no result yet."""
        return self.source.behind(self._done)

    def close(self) -> None:
        """Leave the group."""
        self._stop.set()
        self.source.release()
        self._chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Chunk | object | None:
        if self._rest is not None:
            chunk, self._rest = self._rest, None
            return chunk
        return self._chunks.take(_TAKE_S)


def _whole(chunk: Chunk, most: int) -> int:
    """Return how many rows of a chunk are at most `most` and end with a message; more, if the first is larger."""
    if chunk.inner is None:
        return most
    ends = np.flatnonzero(chunk.inner == 0) + 1
    fitting = ends[ends <= most]
    if len(fitting):
        return int(fitting[-1])
    return int(ends[0]) if len(ends) else chunk.batch.num_rows


def _ends_inside(chunk: Chunk) -> bool:
    """Tell whether rows of its last message are still to come."""
    return any(position for name, position in positions_after(chunk).items() if name.endswith("#rows"))

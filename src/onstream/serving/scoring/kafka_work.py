"""Requests of a topic, results into another, each piece in one transaction."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import orjson
import pyarrow as pa

from onstream.contracts import Chunk, Positions
from onstream.errors import FencedError
from onstream.serving.scoring.work import Piece
from onstream.streams import Ahead, Kafka, KafkaWriter
from onstream.streams.ahead import END
from onstream.streams.chunks import positions_after, slice_chunk

__all__ = ["KafkaWork"]

_TAKE_S = 0.05
_CHUNK_ROWS = 4096


class KafkaWork:
    """Requests of a consumer group, and a topic for their results.

    Parameters
    ----------
    source : Kafka
        With a group.
    target : str
        The topic of the results, at the same brokers.
    keys : sequence of str
        Columns of the requests that their results keep; the first is the key of a result's message.

    Notes
    -----
    Results are JSON objects. They, and how far the requests were read, are written in one transaction: whoever reads
    "read_committed" sees the result of each request exactly once, however many processes share the group and
    whichever of them die. A process that was put out of its group writes nothing.
    """

    def __init__(self, source: Kafka, target: str, keys: Sequence[str] = ()) -> None:
        assert source.group is not None
        self._source = source
        self._key = keys[0] if keys else None
        self._done: Positions = {}
        self._rest: Chunk | None = None
        # Partitions are given up once the results of what was taken of them are written.
        source.kept({})
        name = f"{source.group}-{uuid.uuid4()}"
        self._writer = KafkaWriter(
            target, servers=source.servers, name=name, patience_s=source.patience_s, config=source.config
        )
        self._stop = threading.Event()
        self._chunks: Ahead[Chunk] = Ahead(
            source.read({}, max_rows=_CHUNK_ROWS, stop=self._stop), depth=1, stop=self._stop
        )

    def take(self, max_rows: int, stop: threading.Event) -> Piece | None:
        """Wait for requests and take some; None once `stop` is set, or at the end of a topic that ends.

        A piece is of one partition, since another process may take over one partition and not another.
        """
        while not stop.is_set():
            if self._rest is None:
                found = self._chunks.take(_TAKE_S)
                if found is END:
                    return None
                if found is None:
                    continue
                self._rest = found
            chunk, num_rows = self._rest, self._rest.batch.num_rows
            self._rest = slice_chunk(chunk, max_rows, num_rows - max_rows) if num_rows > max_rows else None
            if num_rows or chunk.rejects:
                return Piece([slice_chunk(chunk, 0, min(max_rows, num_rows))], None)
            self._finish(positions_after(chunk))
        return None

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch]) -> bool:
        """Write the results of a piece; False if another process has its partition now."""
        rows = [row for batch in results for row in batch.to_pylist()]
        values = [orjson.dumps(row, default=str) for row in rows]
        keys = None if self._key is None else [_as_key(row[self._key]) for row in rows]
        [chunk] = piece.chunks
        positions = positions_after(chunk)
        while True:
            member = self._source.member
            try:
                self._writer.write(values, keys, positions=positions, member=member)
            except FencedError:
                # Until the group has settled, and either gives this process a new proof or takes the partition away.
                while self._source.member is member:
                    if chunk.partition not in self._source.expected_partitions():
                        return False
                    time.sleep(_TAKE_S)
            else:
                self._finish(positions)
                return True

    def give_back(self, piece: Piece) -> None:
        """Let another process have the requests of a piece: nothing of it was committed."""

    def behind(self) -> tuple[int, str] | None:
        """Return how many requests have no result yet."""
        return self._source.behind(self._done)

    def _finish(self, positions: Positions) -> None:
        """Take note that everything before `positions` has its result."""
        self._done |= positions
        self._source.kept(dict(self._done))

    def close(self) -> None:
        """Leave the group."""
        self._stop.set()
        self._source.release()
        self._chunks.close()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_key(value: object) -> bytes | None:
    """Return a value of a request as the key of a message."""
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()

"""What the tests of this room share."""

import threading

import pyarrow as pa

from onstream.contracts import Chunk, Positions, Stream


def read(stream: Stream, positions: Positions | None = None, max_rows: int = 16384) -> list[Chunk]:
    return list(stream.read(positions or {}, max_rows=max_rows, stop=threading.Event()))


def rows_of(chunks: list[Chunk]) -> list[dict]:
    return [row for chunk in chunks for row in chunk.batch.to_pylist()]


def rejects_of(chunks: list[Chunk]) -> list[tuple[int, str]]:
    return [(r.position, r.reason) for chunk in chunks for r in chunk.rejects]


def positions_of(chunks: list[Chunk]) -> Positions:
    return {chunk.partition: chunk.next for chunk in chunks}


class FakeClock:
    """A clock that moves only when it is waited for."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.now += seconds


def numbers(first: int, num_rows: int) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array(range(first, first + num_rows), pa.int64())})

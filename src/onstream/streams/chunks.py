"""What every stream needs to know about a `Chunk`: where its rows end, and how to cut it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Chunk, Positions, Reject

__all__ = [
    "NO_COLUMNS",
    "PAST_END",
    "inner_name",
    "no_rows",
    "positions_after",
    "row_ends",
    "skip_to",
    "slice_chunk",
]

Offsets = npt.NDArray[np.int64]

PAST_END = 2**63 - 1
"""The position of a damaged partition: reading from there yields nothing."""

NO_COLUMNS = pa.schema([])


def row_ends(chunk: Chunk) -> Offsets:
    """Return the position after each row of a chunk, int64 (num_rows,)."""
    if chunk.ends is not None:
        return chunk.ends
    return np.arange(chunk.next - chunk.batch.num_rows + 1, chunk.next + 1, dtype=np.int64)


def inner_name(partition: str) -> str:
    """Return the name under which positions hold how many rows of a partition's next message have been given."""
    return f"{partition}#rows"


def positions_after(chunk: Chunk) -> Positions:
    """Return where to read on after the whole of a chunk."""
    if chunk.inner is None:
        return {chunk.partition: chunk.next}
    inside = chunk.batch.num_rows and int(row_ends(chunk)[-1]) == chunk.next
    return {chunk.partition: chunk.next, inner_name(chunk.partition): int(chunk.inner[-1]) if inside else 0}


def no_rows(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of `schema` without rows."""
    return pa.RecordBatch.from_arrays([pa.array([], type=field.type) for field in schema], schema=schema)


def skip_to(
    partition: str, position: int, rejects: Sequence[Reject] = (), schema: pa.Schema = NO_COLUMNS
) -> Chunk:
    """Return a chunk without rows that moves a partition on to `position`."""
    return Chunk(no_rows(schema), partition, position, np.empty(0, np.int64), tuple(rejects))


def slice_chunk(chunk: Chunk, first: int, num_rows: int) -> Chunk:
    """Return `num_rows` rows of a chunk, from row `first` on, without copying.

    Notes
    -----
    Slices that cover a chunk hold each of its rejects once: a reject goes with the row after it, and what
    lies behind the last row goes with the last slice.
    """
    if first == 0 and num_rows == chunk.batch.num_rows:
        return chunk
    ends = row_ends(chunk)
    stop = first + num_rows
    last = stop >= chunk.batch.num_rows
    after = int(ends[first - 1]) if first else -1
    until = chunk.next if last else int(ends[stop - 1])
    rejects = [r for r in chunk.rejects if r.position >= after and (last or r.position < until)]
    return replace(
        chunk,
        batch=chunk.batch.slice(first, num_rows),
        next=until,
        ends=ends[first:stop],
        rejects=tuple(rejects),
        inner=None if chunk.inner is None else chunk.inner[first:stop],
    )

"""Messages as chunks: the rows of each partition, where they end, and what could not be decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Chunk, Reject
from onstream.streams.chunks import slice_chunk
from onstream.streams.formats import Decoded, Format
from onstream.streams.kafka.client import name_of

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["METADATA", "by_partition", "chunks_of", "metadata_schema"]

Offsets = npt.NDArray[np.int64]


def _timestamps(messages: Sequence[Message]) -> list[int | None]:
    return [ms if ms >= 0 else None for _, ms in (m.timestamp() for m in messages)]


def _headers(messages: Sequence[Message]) -> list[list[tuple[str, bytes | None]]]:
    return [m.headers() or [] for m in messages]  # type: ignore[misc]


METADATA: dict[str, tuple[pa.DataType, Callable[[Sequence[Message]], list[object]]]] = {
    "_topic": (pa.string(), lambda messages: [m.topic() for m in messages]),
    "_partition": (pa.int32(), lambda messages: [m.partition() for m in messages]),
    "_offset": (pa.int64(), lambda messages: [m.offset() for m in messages]),
    "_timestamp": (pa.timestamp("ms", tz="UTC"), _timestamps),  # type: ignore[dict-item]
    "_key": (pa.binary(), lambda messages: [m.key() for m in messages]),
    "_headers": (pa.map_(pa.string(), pa.binary()), _headers),  # type: ignore[dict-item]
}
"""Columns that a message has besides those of its value: their types, and how they are read."""


def metadata_schema(names: Sequence[str]) -> pa.Schema:
    """Return the columns of `METADATA` that are named."""
    return pa.schema([(name, METADATA[name][0]) for name in names])


def by_partition(messages: Sequence[Message], *, one_topic: bool) -> dict[str, list[Message]]:
    """Return messages by partition, each in its order.

    Calls of a message are what this costs, so their topics are not asked for where there is one.
    """
    numbers = np.array([m.partition() for m in messages])
    changes = numbers[1:] != numbers[:-1]
    if not one_topic:
        topics = np.array([m.topic() for m in messages])
        changes |= topics[1:] != topics[:-1]
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(messages)]
    found: dict[str, list[Message]] = {}
    for first, last in pairwise(edges):
        partition = name_of(messages[first].topic() or "", int(numbers[first]))
        found.setdefault(partition, []).extend(messages[first:last])
    return found


def chunks_of(
    parts: dict[str, list[Message]],
    format: Format,
    columns: Sequence[str],
    inside: dict[str, tuple[int, int]],
    max_rows: int,
) -> Iterator[Chunk]:
    """Yield the rows of messages, decoded all at once.

    Parameters
    ----------
    parts : dict of str to list of Message
        By partition.
    format : Format
    columns : sequence of str
        Of `METADATA`, to be added.
    inside : dict of str to (int, int)
        By partition, an offset and how many rows of the message there have been given before.
    max_rows : int
        Of a chunk.
    """
    values = [message.value() for part in parts.values() for message in part]
    decoded = format.decode(values)
    first = 0
    for partition, messages in parts.items():
        part = _slice(decoded, first, first + len(messages))
        first += len(messages)
        chunk = _chunk(partition, messages, part, columns)
        offset, rows = inside.get(partition, (-1, 0))
        if messages[0].offset() == offset:
            rows = min(rows, int(np.count_nonzero(part.sources == 0)))
            chunk = slice_chunk(chunk, rows, chunk.batch.num_rows - rows)
        for row in range(0, max(1, chunk.batch.num_rows), max_rows):
            yield slice_chunk(chunk, row, min(max_rows, chunk.batch.num_rows - row))


def _offsets(messages: Sequence[Message]) -> Offsets:
    return np.array([m.offset() for m in messages], np.int64)


def _slice(decoded: Decoded, first: int, last: int) -> Decoded:
    """Return what of a decoded batch came from messages `first` to `last`, numbered from 0."""
    begin, end = np.searchsorted(decoded.sources, [first, last])
    rejects = [r for r in decoded.rejects if first <= r.index < last]
    if first:
        rejects = [type(r)(r.index - first, r.reason, r.value) for r in rejects]
    return Decoded(decoded.batch.slice(begin, end - begin), decoded.sources[begin:end] - first, rejects)


def _chunk(partition: str, messages: Sequence[Message], decoded: Decoded, columns: Sequence[str]) -> Chunk:
    """Return the rows of messages of one partition as a chunk."""
    offsets = _offsets(messages)
    sources = decoded.sources
    batch = decoded.batch
    for name in columns:
        kind, read = METADATA[name]
        column = pa.array(read(messages), kind)
        if len(sources) != len(messages) or (len(sources) and sources[-1] != len(messages) - 1):
            column = column.take(pa.array(sources))
        batch = batch.append_column(pa.field(name, kind), column)
    ends = offsets[sources] + 1
    inner = None
    if len(sources) and len(sources) > len(np.unique(sources)):
        new = np.concatenate(([True], sources[1:] != sources[:-1]))
        starts = np.flatnonzero(new)
        # Rows of a message so far, and 0 at its last one.
        inner = np.arange(len(sources)) - np.repeat(starts, np.diff([*starts, len(sources)])) + 1
        complete = np.concatenate((new[1:], [True]))
        inner[complete] = 0
        ends = np.where(complete, ends, ends - 1)
    rejects = [Reject(partition, int(offsets[r.index]), r.reason, r.value) for r in decoded.rejects]
    return Chunk(batch, partition, int(offsets[-1]) + 1, ends, tuple(rejects), inner=inner)

"""Segments: rows of one table as an Arrow IPC file, one record batch per partition."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.checkpoints.blocks import is_plain
from onstream.checkpoints.files import Part, StoredFile, load, put
from onstream.contracts import Array, Delta, Store
from onstream.errors import DamagedError, ShapeError

__all__ = [
    "Segment",
    "SegmentFile",
    "TableShape",
    "open_segment",
    "read_segment",
    "segment_of",
    "shape_of",
    "split",
    "write_parts",
    "write_segment",
]

_FORMAT = "1"


@dataclass(frozen=True, slots=True)
class TableShape:
    """What all segments of one table agree on.

    Attributes
    ----------
    table : str
    dim : int
        Floats of one row's weights.
    width : int
        Floats of one row's optimizer state.
    partitions : int
    """

    table: str
    dim: int
    width: int
    partitions: int


@dataclass(frozen=True, slots=True)
class SegmentFile(StoredFile):
    """One segment of a table's chain.

    Attributes
    ----------
    rows, deleted : int
        How many rows and how many deletions it holds.
    merged : tuple of str
        Names of the segments that were merged into this one, oldest first; empty for one cut from a table.
    """

    rows: int
    deleted: int
    merged: tuple[str, ...] = ()


def write_segment(store: Store, name: str, delta: Delta, *, table: str) -> SegmentFile:
    """Write a delta as a segment, durable when this returns.

    Parameters
    ----------
    store : Store
    name : str
        File name in the store.
    delta : Delta
    table : str
        Name of the table, kept in the file.

    Raises
    ------
    ShapeError
        If the arrays of `delta` do not fit each other.
    CheckpointError
        If the store cannot write.

    Notes
    -----
    Arrays are handed to the store as they are. Only partitions with deletions are copied.
    """
    shape = shape_of(table, delta)
    return write_parts(store, name, shape, split(delta))


def write_parts(
    store: Store, name: str, shape: TableShape, parts: Iterable[Delta], *, merged: tuple[str, ...] = ()
) -> SegmentFile:
    """Write one delta per partition, in partition order, as a segment; each is taken as it is written."""
    rows = deleted = 0

    def counted() -> Iterator[Delta]:
        nonlocal rows, deleted
        for part in parts:
            rows += len(part.keys)
            deleted += len(part.deleted)
            yield part

    schema = _schema(shape)
    file = put(store, name, _ipc_file(schema, (_to_batch(schema, part) for part in counted())))
    return SegmentFile(file.name, file.size_bytes, file.checksum, rows, deleted, merged)


def read_segment(
    store: Store,
    entry: SegmentFile,
    shape: TableShape,
    *,
    columns: Collection[str] | None = None,
    verify: bool = True,
) -> Iterator[Delta]:
    """Return one delta per partition, in order; the file is opened and checked before, by `open_segment`."""
    segment = open_segment(store, entry, shape, columns=columns, verify=verify)
    return (segment.partition(p) for p in range(shape.partitions))


def open_segment(
    store: Store,
    entry: SegmentFile,
    shape: TableShape,
    *,
    columns: Collection[str] | None = None,
    verify: bool = True,
) -> Segment:
    """Open and check a segment.

    Parameters
    ----------
    store : Store
    entry : SegmentFile
    shape : TableShape
    columns : collection of {"seen", "count", "weights", "state"}, optional
        What to read beside keys and deletions; all by default. Bytes of other columns are not touched (but
        for the checksum), and read as zeros that take no memory.
    verify : bool
        Whether to check every byte, or sizes alone.

    Raises
    ------
    DamagedError
        If the file is missing, changed, or no segment of this table; the message names it.
    """
    return segment_of(load(store, entry, verify=verify), entry, shape, columns=columns)


def segment_of(
    data: pa.Buffer,
    entry: SegmentFile,
    shape: TableShape,
    *,
    columns: Collection[str] | None = None,
) -> Segment:
    """Open a segment of which the bytes are there, as `open_segment` does."""
    try:
        schema = _schema(shape)
        # Arrow's own projection would copy the columns out of the map; leaving columns of a mapped file alone
        # costs nothing.
        reader = pa.ipc.open_file(pa.BufferReader(data))
        if not reader.schema.equals(schema, check_metadata=True):
            raise DamagedError(
                f"checkpoint file {entry.name!r} is no segment of {shape}: "
                f"it holds\n{reader.schema.to_string()}"
            )
        if reader.num_record_batches != shape.partitions:
            raise DamagedError(
                f"checkpoint file {entry.name!r} has {reader.num_record_batches} record batches, "
                f"expected one for each of {shape.partitions} partitions"
            )
        if not is_plain(data):
            raise DamagedError(f"checkpoint file {entry.name!r} is compressed, which segments are not")
    except DamagedError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _damaged(entry, error) from error
    wanted = frozenset(schema.names if columns is None else columns) & frozenset(schema.names)
    return Segment(entry, shape, reader, wanted)


class Segment:
    """An open segment; partitions are read one by one, as views of the file.

    Notes
    -----
    Arrays are read-only views of the mapped file, which they keep alive, even after it was removed.
    """

    def __init__(self, entry: SegmentFile, shape: TableShape, reader: Any, columns: frozenset[str]) -> None:
        self.entry = entry
        self.shape = shape
        self._reader = reader
        self._columns = columns

    def partition(self, p: int) -> Delta:
        """Return the rows and deletions of partition `p`.

        Raises
        ------
        DamagedError
            If the partition cannot be read.
        """
        try:
            batch = self._reader.get_batch(p)
            batch.validate()
            return self._to_delta(batch, p)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(self.entry, error) from error

    def _to_delta(self, batch: pa.RecordBatch, p: int) -> Delta:
        flags = batch.column("deleted")
        m = flags.true_count
        n = batch.num_rows - m
        if any(column.null_count for column in batch.columns) or flags.slice(0, n).true_count:
            raise DamagedError(
                f"checkpoint file {self.entry.name!r}, partition {p}: nulls, or deletions before rows"
            )

        def scalars(name: str) -> Array:
            if name not in self._columns:
                return np.broadcast_to(np.uint32(0), n)
            return _view(batch.column(name))[:n]

        def lists(name: str, dim: int) -> Array:
            if name not in self._columns:
                return np.broadcast_to(np.float32(0), (n, dim))
            return _view(batch.column(name).values).reshape(-1, dim)[:n]

        keys = _view(batch.column("key"))
        return _one_partition(
            self.shape.partitions,
            p,
            keys=keys[:n],
            seen=scalars("seen"),
            count=scalars("count"),
            weights=lists("weights", self.shape.dim),
            state=lists("state", self.shape.width),
            deleted=keys[n:],
        )


def shape_of(table: str, delta: Delta) -> TableShape:
    """Return the shape of a delta.

    Raises
    ------
    ShapeError
        If its arrays do not fit each other.
    """
    n, m = len(delta.keys), len(delta.deleted)
    fits = (
        all(a.ndim == 2 and len(a) == n for a in (delta.weights, delta.state))
        and all(a.shape == (n,) for a in (delta.seen, delta.count))
        and len(delta.bounds) == len(delta.deleted_bounds) >= 2
        and _spans(delta.bounds, n)
        and _spans(delta.deleted_bounds, m)
    )
    if not fits:
        raise ShapeError(
            f"table {table!r}: the arrays of a delta do not fit each other: keys {delta.keys.shape}, "
            f"seen {delta.seen.shape}, count {delta.count.shape}, weights {delta.weights.shape}, state "
            f"{delta.state.shape}, deleted {delta.deleted.shape}, bounds {delta.bounds.tolist()}, "
            f"deleted_bounds {delta.deleted_bounds.tolist()}"
        )
    return TableShape(table, delta.weights.shape[1], delta.state.shape[1], len(delta.bounds) - 1)


def split(delta: Delta) -> Iterator[Delta]:
    """Yield one delta per partition, as views."""
    partitions = len(delta.bounds) - 1
    for p in range(partitions):
        rows = slice(int(delta.bounds[p]), int(delta.bounds[p + 1]))
        dropped = slice(int(delta.deleted_bounds[p]), int(delta.deleted_bounds[p + 1]))
        yield _one_partition(
            partitions,
            p,
            keys=delta.keys[rows],
            seen=delta.seen[rows],
            count=delta.count[rows],
            weights=delta.weights[rows],
            state=delta.state[rows],
            deleted=delta.deleted[dropped],
        )


def _one_partition(partitions: int, p: int, *, keys: Array, deleted: Array, **columns: Array) -> Delta:
    """Return a delta whose rows all lie in partition `p`."""
    after = np.arange(partitions + 1) > p
    return Delta(
        keys=keys, deleted=deleted, bounds=after * len(keys), deleted_bounds=after * len(deleted), **columns
    )


def _spans(bounds: Array, n: int) -> bool:
    return bool(bounds[0] == 0 and bounds[-1] == n and np.all(np.diff(bounds) >= 0))


def _schema(shape: TableShape) -> pa.Schema:
    """Return the schema of a table's segments; a column of no floats is left out."""
    fields = [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("seen", pa.uint32(), nullable=False),
        pa.field("count", pa.uint32(), nullable=False),
    ]
    item = pa.field("item", pa.float32(), nullable=False)
    for name, dim in (("weights", shape.dim), ("state", shape.width)):
        if dim:
            fields.append(pa.field(name, pa.list_(item, dim), nullable=False))
    facts = {
        "onstream.segment": _FORMAT,
        "onstream.table": shape.table,
        "onstream.dim": str(shape.dim),
        "onstream.width": str(shape.width),
        "onstream.partitions": str(shape.partitions),
    }
    return pa.schema(fields, facts)


def _to_batch(schema: pa.Schema, part: Delta) -> pa.RecordBatch:
    """Return rows, then deletions with zeros, as a record batch that borrows the arrays where it can."""
    n, m = len(part.keys), len(part.deleted)
    columns = {
        "key": np.concatenate([part.keys, part.deleted]) if m else part.keys,
        "deleted": np.packbits(np.arange(n + m) >= n, bitorder="little")
        if m
        else np.zeros(n // 8 + 1, np.uint8),
        "seen": _padded(part.seen, m),
        "count": _padded(part.count, m),
        "weights": _padded(part.weights, m),
        "state": _padded(part.state, m),
    }
    return pa.record_batch([_to_arrow(f.type, columns[f.name], n + m) for f in schema], schema=schema)


def _padded(array: Array, m: int) -> Array:
    return np.concatenate([array, np.zeros((m, *array.shape[1:]), array.dtype)]) if m else array


def _to_arrow(kind: pa.DataType, array: Array, length: int) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        values = _to_arrow(kind.value_type, array, length * kind.list_size)
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    dtype = np.uint8 if pa.types.is_boolean(kind) else kind.to_pandas_dtype()
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    return pa.Array.from_buffers(kind, length, [None, pa.py_buffer(flat)])


def _view(column: pa.Array) -> Array:
    """Return a numpy view of a column without nulls; a copy would be an error."""
    view: Array = column.to_numpy(zero_copy_only=True)
    return view


class _Collector(io.RawIOBase):
    """A file that keeps what is written to it; Arrow hands over its buffers, not copies of them."""

    def __init__(self) -> None:
        self.parts: list[Part] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.parts.append(data)
        return len(data)

    def take(self) -> list[Part]:
        taken, self.parts = self.parts, []
        return taken


def _ipc_file(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[Part]:
    """Yield the bytes of an Arrow IPC file; at most one record batch is held at a time."""
    collector = _Collector()
    with pa.ipc.new_file(pa.PythonFile(collector, "w"), schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield from collector.take()
    yield from collector.take()


def _damaged(entry: SegmentFile, error: Exception) -> DamagedError:
    if isinstance(error, DamagedError):
        return error
    return DamagedError(f"checkpoint file {entry.name!r} cannot be read as a segment: {error}")

"""Reading of what arrives: the key, the time and the value of rows, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Chunk, Reject
from onstream.errors import ColumnError
from onstream.streams.chunks import row_ends
from onstream.streams.join.keys import JoinKeys, read_keys
from onstream.streams.join.times import Times, Unit, read_times

__all__ = ["InputRules", "ReadRows", "read_rows"]

T = TypeVar("T")

_VALUE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class InputRules:
    """How rows of one input are read. The name stands before that of a partition where rows are told apart."""

    name: str
    on: str
    time: str
    unit: Unit
    value: str | None = None


@dataclass
class ReadRows:
    """Rows of a chunk that have a key and a time."""

    batch: pa.RecordBatch
    keys: JoinKeys
    times: Times
    positions: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | None
    rejects: list[Reject] = field(default_factory=list)


def read_rows(source: InputRules, chunk: Chunk, before: int, latest: int | None) -> ReadRows:
    """Read key, time and value of a chunk's rows.

    Parameters
    ----------
    source : InputRules
    chunk : Chunk
    before : int
        The position at which the chunk begins.
    latest : int, optional
        Later event times are rejected.
    """
    batch, ends = chunk.batch, row_ends(chunk)
    bad: dict[int, tuple[str, str]] = {}
    rows = batch.num_rows
    keys = JoinKeys(np.zeros(rows, np.uint64), np.zeros(rows, np.uint32))
    times = np.zeros(rows, np.int64)
    values = None
    try:
        keys, faults = _told(source.on, read_keys, _column(batch, source.on))
        _blame(bad, faults, batch, source.on, "no key that can be joined")
        times, faults = _told(source.time, read_times, _column(batch, source.time), source.unit)
        _blame(bad, faults, batch, source.time, "no event time")
        if latest is not None:
            _blame(bad, times > latest, batch, source.time, "in the future")
        if source.value is not None:
            values = _numbers(_column(batch, source.value), source.value)
            _blame(bad, ~np.isfinite(values), batch, source.value, "no finite number")
    except ColumnError as error:
        bad = {row: (str(error), "") for row in range(rows)}
    if not bad:
        return ReadRows(batch, keys, times, ends, values)
    starts = np.concatenate([[before if chunk.ends is not None else int(ends[0]) - 1], ends[:-1]])
    partition = f"{source.name}/{chunk.partition}"
    rejects = [
        Reject(partition, int(starts[row]), reason, value) for row, (reason, value) in sorted(bad.items())
    ]
    good = np.ones(rows, bool)
    good[list(bad)] = False
    return ReadRows(
        batch.filter(pa.array(good)),
        keys.take(good),
        times[good],
        ends[good],
        None if values is None else values[good],
        rejects,
    )


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    found = batch.schema.get_all_field_indices(name)
    if len(found) != 1:
        raise ColumnError(
            f"column {name!r}: there are several of this name" if found else f"missing column {name!r}"
        )
    return batch.column(found[0])


def _told(name: str, read: Callable[..., T], *given: object) -> T:
    """Return what reading gives; its error tells of the column."""
    try:
        return read(*given)
    except ColumnError as error:
        raise ColumnError(f"column {name!r}: {error}") from error


def _numbers(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ColumnError(f"column {name!r}: {kind} cannot be the value of a label; expected numbers")
    numbers = column.cast(pa.float64(), safe=False)
    return np.asarray(pc.fill_null(numbers, np.nan))


def _blame(
    bad: dict[int, tuple[str, str]],
    faults: npt.NDArray[np.bool_] | None,
    batch: pa.RecordBatch,
    name: str,
    why: str,
) -> None:
    """Note rows with a fault; the first fault of a row counts."""
    if faults is None or not faults.any():
        return
    column = batch.column(name)
    for row in np.flatnonzero(faults).tolist():
        bad.setdefault(row, (f"column {name!r}: {why}", str(column[row])[:_VALUE_LENGTH]))

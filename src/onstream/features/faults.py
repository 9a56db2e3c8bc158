"""What is wrong with rows that arrive: where it was found, and the rejects that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Reject
from onstream.features.columns import Mask
from onstream.features.slots import Fault

__all__ = ["Finding", "Here", "Place", "absence", "every", "far_ahead", "rejects_of"]

# A row is far in the future when it is this many times the spread of its batch, which counts as a day at least,
# beyond both the batch and all that came before.
_FAR = 10
_DAY_S = 86_400
# The first rows of a stream tell nothing of its times while they are so few.
_FEW_TIMES = 16

# How much of an offending value is kept in its reject, in characters.
_VALUE_LENGTH = 200


class Place(Protocol):
    """Where the rows of a record batch stand in their stream.

    Attributes
    ----------
    partition : str
    starts : ndarray of int64, shape (num_rows,)
        The position of each row.
    """

    @property
    def partition(self) -> str: ...  # noqa: D102
    @property
    def starts(self) -> npt.NDArray[np.int64]: ...  # noqa: D102


class Here(NamedTuple):
    """A place outside any stream."""

    partition: str
    starts: npt.NDArray[np.int64]


class Finding(NamedTuple):
    """A fault of one column of one record batch, and where that record batch stands."""

    fault: Fault
    rows: slice
    column: pa.Array | None
    place: Place


def far_ahead(
    column: str,
    batches: Sequence[pa.RecordBatch],
    places: Sequence[Place],
    times: npt.NDArray[np.float64],
    newest: int,
) -> Iterator[Finding]:
    """Yield rows whose time is far beyond those of the stream: believed, it would expire everything else.

    Parameters
    ----------
    column : str
        That of the event times.
    batches, places
    times : ndarray of float64, shape (rows,)
        Of all their rows, in seconds since 1970; NaN where there is none.
    newest : int
        That of the stream until here; 0 at its beginning.
    """
    known = times[~np.isnan(times)]
    if not len(known) or (newest == 0 and len(known) < _FEW_TIMES):
        return
    low, high = np.quantile(known, (0.25, 0.75), method="lower")
    limit = max(newest, high) + _FAR * max(high - low, _DAY_S)
    far = times > limit
    # A gap in the stream may fall into a batch: what many rows say is so.
    if not 0 < np.count_nonzero(far) <= max(1, len(known) // 100):
        return
    begin = 0
    for batch, place in zip(batches, places, strict=True):
        rows = slice(begin, begin + batch.num_rows)
        begin = rows.stop
        values = batch.column(batch.schema.get_field_index(column)) if far[rows].any() else None
        yield Finding(Fault(f"column {column!r}: far in the future", far[rows]), rows, values, place)


def every(batch: pa.RecordBatch, reason: str) -> Fault:
    """Return a fault of all rows."""
    return Fault(reason, np.ones(batch.num_rows, bool))


def absence(schema: pa.Schema, column: str) -> str:
    """Return why a column of this name cannot be read."""
    twice = bool(schema.get_all_field_indices(column))
    return f"column {column!r}: there are several of this name" if twice else f"missing column {column!r}"


def rejects_of(findings: Iterable[Finding], num_rows: int) -> tuple[Mask, list[Reject]]:
    """Return which rows are bad, and a reject for each, in order; its first fault counts."""
    bad = np.zeros(num_rows, bool)
    found: dict[int, Reject] = {}
    for fault, rows, column, place in findings:
        for at in np.flatnonzero(fault.rows & ~bad[rows]).tolist():
            value = "" if column is None else _value_text(column[at])
            found[rows.start + at] = Reject(place.partition, int(place.starts[at]), fault.reason, value)
        bad[rows] |= fault.rows
    return bad, [found[row] for row in sorted(found)]


def _value_text(value: pa.Scalar) -> str:
    try:
        return str(value.as_py())[:_VALUE_LENGTH]
    except (ValueError, LookupError, ArithmeticError):
        # Arrow holds what Python has no value for: text that is no UTF-8, or dates out of its range.
        return f"a {value.type} that cannot be shown"

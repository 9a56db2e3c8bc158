"""Event times as whole microseconds since 1970."""

from __future__ import annotations

from functools import partial
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.errors import ColumnError
from onstream.streams.parsing.misfits import failing

__all__ = ["FOREVER", "NEVER", "US_PER_S", "Times", "Unit", "microseconds", "read_times"]

Times: TypeAlias = npt.NDArray[np.int64]
Unit: TypeAlias = Literal["s", "ms", "us", "ns"]

NEVER: Final = -(1 << 62)
"""Before every event time."""

FOREVER: Final = 1 << 62
"""After every event time."""

# Beyond some 30,000 years around 1970 a time is a mistake; within them sums with windows cannot overflow.
_MOST_S = 1e12

_ZONE = r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$"

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
US_PER_S = 10**6


def microseconds(seconds: float) -> int:
    """Return a duration in whole microseconds."""
    return round(seconds * US_PER_S)


def read_times(column: pa.Array, unit: Unit = "s") -> tuple[Times, npt.NDArray[np.bool_] | None]:
    """Read a column of event times.

    Parameters
    ----------
    column : pyarrow.Array
        Timestamps, dates, numbers since 1970, or texts of ISO 8601; without a zone they are of UTC.
    unit : {"s", "ms", "us", "ns"}
        Of numbers.

    Returns
    -------
    times : ndarray of int64, shape (rows,)
        Microseconds since 1970; 0 where there is none.
    bad : ndarray of bool, shape (rows,), or None
        Rows that are null, not finite, or far beyond any calendar. None when there is none.

    Raises
    ------
    ColumnError
        If the column holds no times.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed(column)
    kind = column.type
    if pa.types.is_date(kind):
        column, unit = column.cast(pa.timestamp("ms")), "ms"
    elif pa.types.is_timestamp(kind):
        unit = kind.unit
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ColumnError(
            f"{kind} cannot be read as event time; expected timestamps, dates, numbers or texts of ISO 8601"
        )
    missing = column.null_count > 0
    if pa.types.is_floating(kind):
        seconds = np.asarray(column.cast(pa.float64()).fill_null(np.nan)) / _PER_SECOND[unit]
        bad = ~(np.abs(seconds) <= _MOST_S)
        times = np.round(np.where(bad, 0.0, seconds) * US_PER_S).astype(np.int64)
    else:
        numbers = _int64(column)
        bad = np.abs(numbers.astype(np.float64)) > _MOST_S * _PER_SECOND[unit]
        per = _PER_SECOND[unit]
        numbers = np.where(bad, 0, numbers)
        times = numbers * (US_PER_S // per) if per <= US_PER_S else numbers // (per // US_PER_S)
        if missing:
            bad |= np.asarray(column.is_null())
    return times, bad if bad.any() else None


def _parsed(column: pa.Array) -> pa.Array:
    """Return texts as timestamps of UTC, null where they are none."""
    zoned = pc.match_substring_regex(column, _ZONE).fill_null(False)
    parsed = pa.nulls(len(column), pa.timestamp("us", "UTC"))
    for mask, kind in ((zoned, pa.timestamp("us", "UTC")), (pc.invert(zoned), pa.timestamp("us"))):
        rows = np.flatnonzero(np.asarray(mask) & np.asarray(column.is_valid()))
        bad = failing(rows.tolist(), partial(_casts, column, kind))
        good = np.setdiff1d(rows, bad)
        if len(good):
            chosen = np.zeros(len(column), bool)
            chosen[good] = True
            times = column.take(pa.array(good)).cast(kind).cast(pa.int64()).cast(parsed.type)
            parsed = pc.replace_with_mask(parsed, pa.array(chosen), times)
    return parsed


def _casts(column: pa.Array, kind: pa.DataType, rows: list[int]) -> bool:
    try:
        column.take(pa.array(rows)).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _int64(column: pa.Array) -> Times:
    """Return whole numbers as int64, 0 where they are null."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), np.int64)
    if pa.types.is_uint64(column.type):
        # Numbers beyond int64 are no times: as floats they are seen to be too large.
        large = np.asarray(column.fill_null(0))
        return np.where(large > np.uint64(2**63 - 1), 2**63 - 1, large).astype(np.int64)
    return np.asarray(column.cast(pa.int64()).fill_null(0))

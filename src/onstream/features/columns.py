"""Arrow columns as arrays: one function for each thing that a column can mean.

Each takes a column of any type, sliced or not, and returns what it holds with a mask of the rows that are
bad, or None when none is. A type that cannot be read raises `ColumnError`.
"""

from __future__ import annotations

import datetime
import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.core import hash_column
from onstream.errors import ColumnError

__all__ = [
    "hash_ids",
    "read_blocks",
    "read_lists",
    "read_numbers",
    "read_seconds",
    "read_truths",
    "read_values",
    "segment_sums",
]

Mask: TypeAlias = npt.NDArray[np.bool_]

# Exactly the texts that Arrow casts to double, so that a row is judged alike whatever its neighbours are.
_NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan(\([a-z0-9_]*\))?)$"

_FALSE = ["0", "false", "False", "FALSE"]
_TRUE = ["1", "true", "True", "TRUE"]

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S = 86_400


def hash_ids(column: pa.Array, salt: int, out: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8] | None:
    """Write the key of each value to `out`; see `onstream.core.hash_column`."""
    try:
        return hash_column(column, salt, out)
    except ColumnError:
        simple = _hashable(column)
        if simple is None:
            raise ColumnError(f"{_type_text(column)} cannot be read as ids") from None
        return hash_column(simple, salt, out)


def read_numbers(column: pa.Array) -> tuple[npt.NDArray[np.float64], Mask | None]:
    """Read numbers; NaN where null."""
    column = _plain(column)
    bad = None
    kind = column.type
    if _is_text(kind):
        numbers, bad = _parse_numbers(column)
    elif _is_numeric(kind):
        numbers = pc.cast(column, pa.float64(), safe=False)
    else:
        raise ColumnError(f"{_type_text(column)} cannot be read as numbers")
    return numbers.to_numpy(zero_copy_only=False), bad


def read_truths(column: pa.Array) -> tuple[npt.NDArray[np.float64], Mask | None]:
    """Read numbers, of texts "0", "1", "false" and "true" only; NaN where null."""
    column = _plain(column)
    if not _is_text(column.type):
        return read_numbers(column)
    choices = pa.array(_FALSE + _TRUE, column.type)
    found = pc.index_in(column, value_set=choices)
    known: Mask = found.is_valid().to_numpy(zero_copy_only=False)
    null: Mask = column.is_null().to_numpy(zero_copy_only=False)
    positive = found.fill_null(0).to_numpy(zero_copy_only=False) >= len(_FALSE)
    return np.where(known, positive, np.nan), _either(None, ~known & ~null)


def read_lists(column: pa.Array, separator: str | None) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Read lists: their elements in one column, and how many each row has. A null list is empty."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(0), np.zeros(len(column), np.int64)
    if _is_text(kind) and separator is not None:
        column = pc.split_pattern(column, separator)
        parts, lengths = column.flatten(), _lengths(column)
        return _without(parts, lengths, pc.equal(parts, ""))
    if not _is_list(kind):
        hint = "; give the separator of its elements" if _is_text(kind) else ""
        raise ColumnError(f"{_type_text(column)} cannot be read as lists of ids{hint}")
    values, lengths = column.flatten(), _lengths(column)
    if values.null_count or pa.types.is_floating(values.type):
        return _without(values, lengths, values.is_null(nan_is_null=True))
    return values, lengths


def read_blocks(column: pa.Array, size: int) -> tuple[npt.NDArray[Any], Mask | None]:
    """Read blocks of `size` numbers as (rows, size); a block of another length is bad."""
    column = _plain(column)
    kind = column.type
    if _is_binary(kind):
        values, lengths = _bytes(column)
    elif _is_list(kind):
        flat, lengths = column.flatten(), _lengths(column)
        while _is_list(flat.type):
            lengths = segment_sums(_lengths(flat), lengths)
            flat = flat.flatten()
        if not _is_numeric(flat.type):
            raise ColumnError(f"{_type_text(column)} cannot be read as a tensor")
        values = pc.cast(flat, pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    elif pa.types.is_null(kind):
        return np.zeros((len(column), size), np.float32), np.ones(len(column), bool)
    else:
        raise ColumnError(f"{_type_text(column)} cannot be read as a tensor")
    fit = lengths == size
    if column.null_count:
        fit &= column.is_valid().to_numpy(zero_copy_only=False)
    if fit.all():
        blocks, bad = values.reshape(-1, size), None
    else:
        blocks, bad = np.zeros((len(column), size), values.dtype), ~fit
        blocks[fit] = values[np.repeat(fit, lengths)].reshape(-1, size)
    # One sum tells that all is well; it is looked at closely only when it is not finite.
    if blocks.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            doubtful = not np.isfinite(blocks.sum())
        if doubtful:
            bad = _either(bad, np.logical_or.reduce(~np.isfinite(blocks), axis=1))
    return blocks, bad


def read_seconds(column: pa.Array, unit: str) -> tuple[npt.NDArray[np.float64], Mask | None]:
    """Read times as whole seconds since 1970; NaN where null. Bad is what uint32 cannot hold."""
    column = _plain(column)
    kind = column.type
    unread = None
    if pa.types.is_timestamp(kind):
        seconds = _divide(column, _PER_SECOND[kind.unit])
    elif pa.types.is_date32(kind):
        seconds = _divide(pc.cast(column, pa.int32()), 1) * _DAY_S
    elif pa.types.is_date64(kind):
        seconds = _divide(column, _PER_SECOND["ms"])
    elif pa.types.is_integer(kind):
        seconds = _divide(column, _PER_SECOND[unit])
    elif _is_text(kind):
        seconds, unread = _parse_times(column)
    elif _is_numeric(kind):
        numbers, _ = read_numbers(column)
        seconds = np.floor(numbers / _PER_SECOND[unit])
    else:
        raise ColumnError(f"{_type_text(column)} cannot be read as times")
    outside: Mask = (seconds < 0) | (seconds >= 2**32)
    return seconds, _either(unread, outside)


def read_values(column: pa.Array) -> list[str | None]:
    """Read ids as texts; None where null. What `hash_ids` finds bad may come out as anything.

    Values that have one key there have one text here, whatever type they were read in.
    """
    column = _plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        return [str(int(v)) if math.isfinite(v) else None for v in read_numbers(column)[0].tolist()]
    if pa.types.is_decimal(kind):
        return [None if v is None else str(int(v)) for v in column.to_pylist()]
    if pa.types.is_boolean(kind):
        column = pc.cast(column, pa.uint8())
    if pa.types.is_integer(column.type) or pa.types.is_temporal(kind):
        column = pc.cast(column, pa.string())
    if not _is_binary(kind):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except UnicodeDecodeError:
            column = pc.cast(column, pa.large_binary())
    # Bytes that are no UTF-8 are ids all the same.
    return [None if v is None else v.decode(errors="backslashreplace") for v in column.to_pylist()]


def segment_sums(values: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sum of each run of `lengths` values."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    ends = np.cumsum(lengths)
    sums: npt.NDArray[np.int64] = total[ends] - total[ends - lengths]
    return sums


def _plain(column: pa.Array) -> pa.Array:
    """Undo encodings, which say how a column is stored and not what it holds."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(column.storage)
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _plain(pc.run_end_decode(column))
    if pa.types.is_string_view(kind):
        return pc.cast(column, pa.large_string())
    if pa.types.is_binary_view(kind):
        return pc.cast(column, pa.large_binary())
    return column


def _hashable(column: pa.Array) -> pa.Array | None:
    """Return the column in a type that the core hashes, if it has one of equal meaning."""
    column = _plain(column)
    kind = column.type
    if pa.types.is_float16(kind):
        return pc.cast(column, pa.float32())
    if pa.types.is_decimal(kind):
        # Without a fraction the text is that of an integer; with one, the core judges it as a float.
        return pc.cast(column, pa.string() if kind.scale == 0 else pa.float64())
    if pa.types.is_fixed_size_binary(kind):
        return pc.cast(column, pa.binary())
    nested = _is_list(kind) or pa.types.is_nested(kind) or pa.types.is_interval(kind)
    return None if nested else column


def _parse_numbers(column: pa.Array) -> tuple[pa.Array, Mask | None]:
    try:
        return pc.cast(column, pa.float64()), None
    except pa.ArrowInvalid:
        fine = pc.match_substring_regex(column, _NUMBER)
        bad = pc.invert(fine).fill_null(False).to_numpy(zero_copy_only=False)
        return pc.cast(pc.if_else(fine, column, None), pa.float64()), bad


def _parse_times(column: pa.Array) -> tuple[npt.NDArray[np.float64], Mask | None]:
    for zone in (None, "UTC"):
        try:
            return _divide(pc.cast(column, pa.timestamp("us", zone)), _PER_SECOND["us"]), None
        except pa.ArrowInvalid:
            continue
    # With and without zones in one column, or texts that are no times: one by one.
    seconds = np.full(len(column), np.nan)
    bad = np.zeros(len(column), bool)
    for row, value in enumerate(column):
        try:
            text = value.as_py()
            if text is not None:
                seconds[row] = _parse_time(text)
        except (ValueError, OverflowError):
            bad[row] = True
    return seconds, bad


def _parse_time(text: str) -> float:
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp() // 1


def _divide(column: pa.Array, per_second: int) -> npt.NDArray[np.float64]:
    """Return whole numbers over `per_second`, rounded down; NaN where null."""
    counts = pc.cast(column, pa.int64(), safe=False)
    null = counts.is_null().to_numpy(zero_copy_only=False) if counts.null_count else None
    seconds: npt.NDArray[np.float64] = (counts.fill_null(0).to_numpy() // per_second).astype(np.float64)
    if null is not None:
        seconds[null] = np.nan
    return seconds


def _bytes(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes of all rows, one after the other, and how many each row has."""
    column = pc.cast(column, pa.large_binary())
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    if not len(column) or data is None:
        return np.zeros(0, np.uint8), np.zeros(len(column), np.int64)
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]], np.diff(ends)


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pc.list_value_length(column).fill_null(0).to_numpy().astype(np.int64)
    return lengths


def _without(
    values: pa.Array, lengths: npt.NDArray[np.int64], drop: pa.Array
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Drop elements of lists."""
    keep = ~drop.fill_null(True).to_numpy(zero_copy_only=False)
    if keep.all():
        return values, lengths
    return values.filter(pa.array(keep)), segment_sums(keep, lengths)


def _either(a: Mask | None, b: Mask) -> Mask | None:
    """Return the union of two masks; None when it is empty."""
    both = b if a is None else a | b
    return both if both.any() else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(variable or pa.types.is_fixed_size_binary(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    )


def _type_text(column: pa.Array) -> str:
    """Return the name of a column's type; that of a wide struct is cut."""
    text = str(column.type)
    return text if len(text) <= 80 else f"{text[:77]}..."

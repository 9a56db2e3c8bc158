"""Arrow columns without encodings: what they hold, in types that every reader takes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["plain", "plain_type"]


def plain_type(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of what a column of some type holds; None where such columns are not taken.

    Dictionaries and views are taken at the top only: nested ones can hold far more than what their size is known to be.
    """
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        return kind.value_type if _is_flat(kind.value_type) else None
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind if _is_flat(kind) or _is_nested(kind) else None


def plain(column: pa.Array, budget: int) -> pa.Array:
    """Return a column without its encoding. Raises ValueError if that would take more than `budget` bytes."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_dictionary(kind):
        _within(_dictionary_bytes(column), budget)
        return column.dictionary_decode()
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        _within(_view_bytes(column), budget)
        return pc.cast(column, plain_type(kind))
    return column


def _within(size: int, budget: int) -> None:
    if size > budget:
        raise ValueError(f"a column of {size} bytes when decoded")


def _dictionary_bytes(column: pa.DictionaryArray) -> int:
    """Return how many bytes the values of a column take, each written out."""
    values = column.dictionary
    rows = len(column)
    if _has_lengths(values.type):
        lengths = pc.binary_length(values).fill_null(0).cast(pa.int64())
        return rows * 8 + int(pc.sum(lengths.take(column.indices)).as_py() or 0)
    return rows * max(8, _fixed_bytes(values.type))


def _view_bytes(column: pa.Array) -> int:
    """Return how many bytes the values of a column of views take, each written out."""
    # A view is 16 bytes, of which the first four are the length.
    views: npt.NDArray[np.int32] = np.frombuffer(column.buffers()[1], np.int32)
    lengths = views[4 * column.offset : 4 * (column.offset + len(column)) : 4]
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    return len(column) * 8 + int(lengths[valid].sum(dtype=np.int64))


def _fixed_bytes(kind: pa.DataType) -> int:
    return -(-kind.bit_width // 8) if not pa.types.is_null(kind) else 0


def _has_lengths(kind: pa.DataType) -> bool:
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return bool(texts or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_flat(kind: pa.DataType) -> bool:
    """Return whether values of a type have a fixed width or lengths of their own."""
    fixed = pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind) or pa.types.is_decimal(kind)
    return bool(_has_lengths(kind) or fixed or pa.types.is_null(kind) or pa.types.is_boolean(kind))


def _is_nested(kind: pa.DataType) -> bool:
    """Return whether a type is nested, and all that it holds is plain."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists or pa.types.is_struct(kind) or pa.types.is_map(kind):
        inner = [kind.field(i).type for i in range(kind.num_fields)]
        return all(not isinstance(t, pa.BaseExtensionType) and (_is_flat(t) or _is_nested(t)) for t in inner)
    return False

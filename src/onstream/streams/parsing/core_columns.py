"""Columns that the core decoded, as Arrow arrays."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

__all__ = ["to_array"]


def to_array(type: pa.DataType, parts: tuple[Any, ...]) -> pa.Array:
    """Return a column of the core as an array of a type with that layout."""
    count, nulls, *buffers, inner = parts
    if pa.types.is_null(type):
        return pa.nulls(count)
    validity, offsets, values = (None if part is None else pa.py_buffer(part) for part in buffers)
    if pa.types.is_struct(type):
        children = [to_array(type.field(i).type, inner[i]) for i in range(type.num_fields)]
        return pa.Array.from_buffers(type, count, [validity], nulls, children=children)
    if pa.types.is_list(type):
        children = [to_array(type.value_type, inner[0])]
        return pa.Array.from_buffers(type, count, [validity, offsets], nulls, children=children)
    if pa.types.is_map(type):
        pair = pa.struct([type.key_field, type.item_field])
        children = [to_array(pair, inner[0])]
        return pa.Array.from_buffers(type, count, [validity, offsets], nulls, children=children)
    # Without values nothing was allocated, which Arrow does not take.
    values = pa.py_buffer(b"") if values is None else values
    flat = [validity, values] if offsets is None else [validity, offsets, values]
    return pa.Array.from_buffers(type, count, flat, nulls)

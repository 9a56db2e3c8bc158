"""Looking into FlatBuffers, in which Arrow IPC says what its messages hold.

Offsets that point outside raise `struct.error`; one that is negative is read as large, so that it does too.

References
----------
https://flatbuffers.dev/internals, "Tables".
"""

from __future__ import annotations

import struct

__all__ = ["field_at", "follow", "vector_at"]


def follow(data: memoryview, at: int) -> int:
    """Return where the offset that lies at a place points to."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def field_at(data: memoryview, table: int, place: int) -> int | None:
    """Return where a field of a table lies, None if it is not there."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        raise struct.error("a table's fields lie before its buffer")
    (size,) = struct.unpack_from("<H", data, vtable)
    at = 4 + 2 * place
    offset = struct.unpack_from("<H", data, vtable + at)[0] if at + 2 <= size else 0
    return table + offset if offset else None


def vector_at(data: memoryview, table: int, place: int) -> tuple[int, int]:
    """Return where the elements of a vector begin, and how many there are; none if the field is not there."""
    field = field_at(data, table, place)
    if field is None:
        return 0, 0
    vector = follow(data, field)
    return vector + 4, int(struct.unpack_from("<I", data, vector)[0])

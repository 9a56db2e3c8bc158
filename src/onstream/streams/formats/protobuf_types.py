"""Protobuf messages as columns: the Arrow type of each field, and how its value is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["Reader", "column_of"]

Reader: TypeAlias = Callable[[Any], Any]
"""What reads a field's value from a message."""

_MAX_MICROSECONDS = 2**63 - 1

# By the names in FieldDescriptorProto.Type.
_SCALARS = {
    1: pa.float64(),
    2: pa.float32(),
    3: pa.int64(),
    4: pa.uint64(),
    5: pa.int32(),
    6: pa.uint64(),
    7: pa.uint32(),
    8: pa.bool_(),
    9: pa.string(),
    12: pa.binary(),
    13: pa.uint32(),
    15: pa.int32(),
    16: pa.int64(),
    17: pa.int32(),
    18: pa.int64(),
}
_GROUP, _MESSAGE, _ENUM = 10, 11, 14

_WRAPPERS = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Bool", "Bytes", "Double", "Float", "Int32", "Int64", "String", "UInt32", "UInt64")
)
_TIMESTAMP = "google.protobuf.Timestamp"


def column_of(
    field: FieldDescriptor, max_depth: int, within: tuple[str, ...] = ()
) -> tuple[pa.DataType, Reader | None] | None:
    """Return the type of a field's column, and what turns one value into what pyarrow takes (None: nothing to do).

    None if there is no such column: a group, a message that holds itself, or one nested deeper than `max_depth`.
    """
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        inner = _value_of(value, max_depth, within)
        if inner is None:
            return None
        read = inner[1] or _same
        return pa.map_(_SCALARS[key.type], inner[0]), lambda found: [(k, read(v)) for k, v in found.items()]
    inner = _value_of(field, max_depth, within)
    if inner is None or not _repeated(field):
        return inner
    each = inner[1]
    return pa.list_(inner[0]), list if each is None else lambda found: [each(v) for v in found]


def _value_of(
    field: FieldDescriptor, max_depth: int, within: tuple[str, ...]
) -> tuple[pa.DataType, Reader | None] | None:
    """Return the type of one value of a field, and what reads it."""
    if field.type == _ENUM:
        names = {number: value.name for number, value in field.enum_type.values_by_number.items()}
        # A number that the schema has no name for is told as it is.
        return pa.string(), lambda number: names.get(number) or str(number)
    if field.type in _SCALARS:
        return _SCALARS[field.type], None
    if field.type != _MESSAGE:
        return None
    message = field.message_type
    if message.full_name == _TIMESTAMP:
        return pa.timestamp("us", "UTC"), _microseconds
    if message.full_name in _WRAPPERS:
        return _SCALARS[message.fields_by_name["value"].type], lambda found: found.value
    return _struct_of(message, max_depth, within)


def _struct_of(
    message: Descriptor, max_depth: int, within: tuple[str, ...]
) -> tuple[pa.DataType, Reader | None] | None:
    """Return the type of a message within another, and what reads it."""
    if message.full_name in within or len(within) + 2 > max_depth:
        return None
    kinds, readers = [], {}
    for field in message.fields:
        found = column_of(field, max_depth, (*within, message.full_name))
        if found is not None:
            kinds.append((field.name, found[0]))
            readers[field.name] = (field.has_presence, found[1] or _same)

    def read(found: Any) -> dict[str, Any]:
        return {
            name: None if optional and not found.HasField(name) else convert(getattr(found, name))
            for name, (optional, convert) in readers.items()
        }

    return pa.struct(kinds), read


def _microseconds(found: Any) -> int:
    made = found.seconds * 1_000_000 + found.nanos // 1000
    if abs(made) > _MAX_MICROSECONDS:
        raise OverflowError("a timestamp that int64 microseconds cannot hold")
    return int(made)


def _same(found: Any) -> Any:
    return found


def _repeated(field: FieldDescriptor) -> bool:
    # Newer versions of protobuf have `is_repeated`, and warn of `label`.
    repeated = getattr(field, "is_repeated", None)
    return bool(field.label == field.LABEL_REPEATED if repeated is None else repeated)

"""Avro: one binary record a message, plain or with the framing of a schema registry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.core import decode_avro
from onstream.errors import JobError
from onstream.streams.formats.avro_schema import AvroRecord, SchemaText, parse_schema
from onstream.streams.formats.decimals import to_decimals
from onstream.streams.formats.described import Described
from onstream.streams.formats.format import (
    MAX_MESSAGE_BYTES,
    Decoded,
    Messages,
    Undecodable,
    check_limits,
    screen,
    shortened,
)
from onstream.streams.formats.inference import Inference
from onstream.streams.formats.merge import merged
from onstream.streams.formats.registry import Registry, RegistryLike, open_registry, unframed
from onstream.streams.parsing.core_columns import to_array
from onstream.streams.parsing.json_objects import MAX_DEPTH
from onstream.streams.parsing.misfits import failing, misfit

__all__ = ["Avro"]

_REASONS = {
    1: "the message ends within its Avro record",
    2: "the message goes on after its Avro record",
    3: "not an Avro record of its schema",
    4: "a string of the Avro record is not UTF-8",
}

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, init=False)
class Avro(Described):
    """Read each message as one binary Avro record.

    Parameters
    ----------
    schema : str, mapping, or path, optional
        What to read: a record schema of Avro, as JSON text, as what JSON says, or the path of a file. Without a
        registry it is also how messages are written. With one it may be left out: the columns are then those of the
        first message's schema.
    registry : mapping of int to schema, path, or str, optional
        Messages are framed as Confluent's serializers do it, and this is where their schemas are found by id: a
        mapping, a directory with files such as ``17.avsc``, or the URL of a schema registry.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_depth : int, default 64
        How deep the types of a schema may be nested.

    Raises
    ------
    JobError
        If the schema is no record, refers to itself, or is too deep; if neither schema nor registry is given.
    StreamError
        While decoding: if the schema registry does not answer.

    Notes
    -----
    Logical dates, times, timestamps and decimals become Arrow's; enums are text. A union with null is a column with
    nulls, one of several kinds of numbers is a column of the widest; fields of other unions are skipped.

    A message written with another schema than `schema` is read by the names (and aliases) of its fields: missing ones
    have their default, or null; values are cast where nothing is lost.

    Examples
    --------
    >>> from onstream.streams.formats import Avro
    >>> avro = Avro('{"type": "record", "name": "Click", "fields": [{"name": "user", "type": "long"}]}')
    >>> decoded = avro.decode([b"\\x0e", b"\\x0e\\x0e"])
    >>> decoded.batch.to_pydict(), decoded.rejects[0].reason
    ({'user': [7]}, 'the message goes on after its Avro record')
    """

    record: AvroRecord | None
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_depth: int
    _registry: Registry | None = field(repr=False)
    _inference: Inference = field(compare=False, repr=False)

    # Written out because `schema`, the argument, is also the name of a method of every format.
    def __init__(
        self,
        schema: SchemaText | os.PathLike[str] | None = None,
        *,
        registry: RegistryLike | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """Check and keep the arguments."""
        check_limits(max_message_bytes=max_message_bytes, max_depth=max_depth)
        if schema is None and registry is None:
            raise JobError("Avro: give schema=, or registry= where messages name their schemas")
        record = None if schema is None else parse_schema(_text(schema), max_depth)
        facts = {
            "record": record,
            "columns": None,
            "max_message_bytes": max_message_bytes,
            "max_depth": max_depth,
            "_registry": None if registry is None else open_registry(registry),
            "_inference": Inference(None if record is None else record.schema),
        }
        self._keep(**facts)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        if self._registry is None:
            assert self.record is not None
            return merged(self.schema(), [self._decode(self.record, texts, indices)], rejects)
        groups: dict[int, tuple[list[bytes], list[int]]] = {}
        for text, index in zip(texts, indices.tolist(), strict=True):
            parts = unframed(text)
            if parts is None:
                reason = "no framing of a schema registry: the message does not begin with 0 and an id"
                rejects.append(Undecodable(index, reason, shortened(text)))
                continue
            payloads, owners = groups.setdefault(parts[0], ([], []))
            payloads.append(parts[1])
            owners.append(index)
        decoded = []
        for id, (payloads, owners) in groups.items():
            writer = self._writer(id)
            if isinstance(writer, str):
                pairs = zip(payloads, owners, strict=True)
                rejects += [Undecodable(index, writer, shortened(text)) for text, index in pairs]
                continue
            self._inference.settle(lambda: writer.schema)  # noqa: B023
            decoded.append(self._decode(writer, payloads, np.array(owners, np.int64)))
        return merged(self.schema(), decoded, rejects)

    def _writer(self, id: int) -> AvroRecord | str:
        """Return the schema of an id, or why messages with it are no rows."""
        assert self._registry is not None
        found = self._registry.find(id)
        if found is None:
            return "its schema is not in the registry"
        try:
            return self._inference.once(id, lambda: parse_schema(found[0], self.max_depth, found[1]))
        except JobError as error:
            return f"schema {id} cannot be used: {error}"

    def _decode(self, writer: AvroRecord, texts: list[bytes], indices: Indices) -> Decoded:
        """Return the rows of messages of one schema."""
        schema = self.schema()
        there = self._places(writer, schema)
        written = writer.fields()
        rows, parts, bad = decode_avro(texts, writer.plan(set(there.values())))
        rejects = [Undecodable(int(indices[i]), _REASONS[why], shortened(texts[i])) for i, why in bad]
        sources = np.delete(indices, [i for i, _ in bad])
        # The core gives columns in the order of the writer's fields.
        order = [name for name in written if name in set(there.values())]
        raw = {
            name: to_array(_layout(written[name][1]), part) for name, part in zip(order, parts, strict=True)
        }
        unfit: dict[int, str] = {}
        columns = []
        for column in schema:
            if column.name not in there:
                columns.append(self._default(column, rows))
                continue
            kind = writer.schema.field(there[column.name]).type
            values = raw[there[column.name]]
            try:
                columns.append(_converted(values, kind, column.type))
            except pa.ArrowException:
                for row in _unfit(values, kind, column.type):
                    unfit.setdefault(row, misfit(column.name, column.type))
                masked = pc.if_else(pa.array(np.isin(np.arange(rows), list(unfit))), None, values)
                columns.append(_converted(masked, kind, column.type))
        batch = pa.RecordBatch.from_arrays(columns, schema=schema) if schema.names else _empty(rows)
        if unfit:
            kept = np.delete(np.arange(rows), list(unfit))
            good = {int(index): i for i, index in enumerate(indices)}
            rejects += [
                Undecodable(int(sources[row]), reason, shortened(texts[good[int(sources[row])]]))
                for row, reason in unfit.items()
            ]
            batch, sources = batch.take(pa.array(kept)), sources[kept]
        return Decoded(batch, sources, rejects)

    def _places(self, writer: AvroRecord, schema: pa.Schema) -> dict[str, str]:
        """Return for each wanted column the field of the writer that it is, where there is one."""
        aliases = {} if self.record is None else self.record.fields()
        places = {}
        for name in schema.names:
            names = aliases[name][0] if name in aliases else (name,)
            found = next((n for n in names if n in writer.schema.names), None)
            if found is not None:
                places[name] = found
        return places

    def _default(self, column: pa.Field, rows: int) -> pa.Array:
        """Return a column that messages have not got."""
        fields = {} if self.record is None else self.record.fields()
        default = fields[column.name][2] if column.name in fields else None
        if default is None or AvroRecord.missing(default):
            return pa.nulls(rows, column.type)
        try:
            if isinstance(default, str) and not pa.types.is_string(column.type):
                default = default.encode("latin-1")
            one = pa.array([default], column.type)
        except (pa.ArrowException, UnicodeError):
            return pa.nulls(rows, column.type)
        return one.take(pa.array(np.zeros(rows, np.int64)))


def _layout(type: Any) -> pa.DataType:
    """Return the type in which the core leaves a field: a decimal is still bytes."""
    [value] = type.values() if type.kind == "union" and len(type.values()) == 1 else [type]
    if value.logical == "decimal":
        return pa.binary(value.size) if value.kind == "fixed" else pa.binary()
    return type.arrow(top=True)


def _converted(values: pa.Array, kind: pa.DataType, wanted: pa.DataType) -> pa.Array:
    """Return values as read in the type of their field, and that as the wanted type."""
    if pa.types.is_decimal(kind):
        values = to_decimals(values, kind)
    return values if values.type == wanted else pc.cast(values, wanted)


def _unfit(values: pa.Array, kind: pa.DataType, wanted: pa.DataType) -> list[int]:
    """Return the rows whose values cannot be converted."""

    def works(rows: list[int]) -> bool:
        try:
            _converted(values.take(pa.array(rows)), kind, wanted)
        except pa.ArrowException:
            return False
        return True

    return failing(list(range(len(values))), works)


def _empty(rows: int) -> pa.RecordBatch:
    """Return rows without columns."""
    return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))


def _text(schema: SchemaText | os.PathLike[str]) -> SchemaText:
    """Return a schema, read from its file if it is a path."""
    if isinstance(schema, str) and not schema.lstrip().startswith(("{", "[", '"')):
        schema = Path(schema)
    if not isinstance(schema, os.PathLike):
        return schema
    try:
        return Path(schema).read_bytes()
    except OSError as error:
        raise JobError(f"Avro: cannot read the schema {str(schema)!r}: {error}") from error

"""Protobuf: one message of a known type a message, plain or with the framing of a schema registry."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from onstream.errors import JobError, MissingExtraError
from onstream.streams.chunks import no_rows
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
from onstream.streams.formats.protobuf_types import Reader, column_of
from onstream.streams.formats.registry import unframed
from onstream.streams.parsing.json_objects import MAX_DEPTH
from onstream.streams.parsing.misfits import failing, misfit

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

__all__ = ["Protobuf"]

# What no column can be made of shows itself as one of these.
_UNREADABLE = (pa.ArrowException, OverflowError, UnicodeError, TypeError, ValueError)

_MAX_INDEXES = 64


@dataclass(frozen=True, init=False)
class Protobuf(Described):
    """Read each message as one Protobuf message of a known type.

    Parameters
    ----------
    descriptors : bytes or path
        A serialized FileDescriptorSet, or a file with one, as ``protoc --include_imports --descriptor_set_out=FILE``
        writes it.
    message : str
        The full name of the type, such as "shop.Click".
    framed : bool, default False
        Messages are framed as Confluent's serializers do it. Their schema is taken to be `descriptors`; which of its
        types they name must be `message`.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_depth : int, default 64
        Fields of messages nested deeper are skipped. Messages that Protobuf's own parser finds nested deeper than 100
        are rejected.

    Raises
    ------
    MissingExtraError
        If protobuf is not installed.
    JobError
        If the descriptors are damaged or incomplete, or have no such type.

    Notes
    -----
    Descriptors live in a pool of their own, so that they clash with no others of the process. A field that is absent
    is null where Protobuf can tell (`optional`, `oneof`, messages), else it has its default. Enums are text, messages
    structs, timestamps and wrappers what they stand for; groups and messages that hold themselves are skipped, and so
    are unknown fields.

    Examples
    --------
    >>> from google.protobuf import descriptor_pb2
    >>> from onstream.streams.formats import Protobuf
    >>> files = descriptor_pb2.FileDescriptorSet()
    >>> click = files.file.add(name="click.proto", syntax="proto3").message_type.add(name="Click")
    >>> _ = click.field.add(name="user", number=1, type="TYPE_INT64", label="LABEL_OPTIONAL")
    >>> decoded = Protobuf(files.SerializeToString(), "Click").decode([b"\\x08\\x07", b"\\xff"])
    >>> decoded.batch.to_pydict(), decoded.rejects[0].reason
    ({'user': [7]}, 'not a Protobuf message of type Click')
    """

    message: str
    framed: bool
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_depth: int
    descriptors: bytes = field(repr=False)
    _class: Any = field(compare=False, repr=False)
    _readers: dict[str, tuple[pa.DataType, Reader | None, bool]] = field(compare=False, repr=False)
    _inference: Inference = field(compare=False, repr=False)

    def __init__(
        self,
        descriptors: bytes | str | os.PathLike[str],
        message: str,
        *,
        framed: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """Check and keep the arguments, and build the type."""
        check_limits(max_message_bytes=max_message_bytes, max_depth=max_depth)
        raw = descriptors if isinstance(descriptors, bytes) else _read(descriptors)
        made = _build(raw, message)
        readers = {}
        for one in made.DESCRIPTOR.fields:
            found = column_of(one, max_depth, (message,))
            if found is not None:
                readers[one.name] = (*found, one.has_presence)
        facts = {
            "message": message,
            "framed": framed,
            "columns": None,
            "max_message_bytes": max_message_bytes,
            "max_depth": max_depth,
            "descriptors": raw,
            "_class": made,
            "_readers": readers,
            "_inference": Inference(pa.schema([(name, kind) for name, (kind, *_) in readers.items()])),
        }
        self._keep(**facts)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        sources = indices.tolist()
        if self.framed:
            texts, sources = self._unframed(texts, sources, rejects)
        found, kept = self._parse(texts, sources, rejects)
        schema = self.schema()
        columns, unfit = self._columns(found, schema)
        if unfit:
            for row, reason in unfit.items():
                rejects.append(Undecodable(kept[row], reason, shortened(messages[kept[row]] or b"")))
            rows = [row for row in range(len(found)) if row not in unfit]
            found, kept = [found[row] for row in rows], [kept[row] for row in rows]
            columns, _ = self._columns(found, schema)
        rejects.sort(key=lambda reject: reject.index)
        if not schema.names:
            batch = pa.RecordBatch.from_struct_array(pa.array([{}] * len(found), pa.struct([])))
        else:
            batch = pa.RecordBatch.from_arrays(columns, schema=schema) if found else no_rows(schema)
        return Decoded(batch, np.array(kept, np.int64), rejects)

    def _parse(
        self, texts: list[bytes], sources: list[int], rejects: list[Undecodable]
    ) -> tuple[list[Any], list[int]]:
        """Return the messages that can be parsed, and their indices."""
        from google.protobuf.message import DecodeError

        try:
            return list(map(self._class.FromString, texts)), sources
        except DecodeError:
            pass
        found, kept = [], []
        for text, source in zip(texts, sources, strict=True):
            try:
                found.append(self._class.FromString(text))
                kept.append(source)
            except DecodeError:
                reason = f"not a Protobuf message of type {self.message}"
                rejects.append(Undecodable(source, reason, shortened(text)))
        return found, kept

    def _columns(self, found: list[Any], schema: pa.Schema) -> tuple[list[pa.Array], dict[int, str]]:
        """Return the columns of messages, or the messages that have values which no column can hold."""
        columns = []
        unfit: dict[int, str] = {}
        for column in schema:
            try:
                columns.append(self._column(column.name, found))
            except _UNREADABLE:
                for row in self._unreadable(column.name, found):
                    unfit.setdefault(row, misfit(column.name, column.type))
        return columns, unfit

    def _column(self, name: str, found: list[Any]) -> pa.Array:
        """Return one column of messages."""
        kind, convert, optional = self._readers[name]
        read = attrgetter(name)
        if optional:
            values = [read(one) if one.HasField(name) else None for one in found]
            if convert is not None:
                values = [None if value is None else convert(value) for value in values]
        else:
            values = list(map(read, found))
            if convert is not None:
                values = list(map(convert, values))
        return pa.array(values, kind)

    def _unreadable(self, name: str, found: list[Any]) -> list[int]:
        """Return the messages of which a column cannot be made."""

        def works(rows: list[int]) -> bool:
            try:
                self._column(name, [found[row] for row in rows])
            except _UNREADABLE:
                return False
            return True

        return failing(list(range(len(found))), works)

    def _unframed(
        self, texts: list[bytes], sources: list[int], rejects: list[Undecodable]
    ) -> tuple[list[bytes], list[int]]:
        """Return the payloads of framed messages, and the indices of these."""
        wanted = _path(self._class.DESCRIPTOR)
        payloads, kept = [], []
        for text, source in zip(texts, sources, strict=True):
            parts = unframed(text)
            indexes = None if parts is None else _indexes(parts[1])
            if parts is None or indexes is None:
                reason = (
                    "no framing of a schema registry: the message does not begin with 0, an id and indexes"
                )
            elif indexes[0] != wanted:
                reason = f"a framed message of another type than {self.message}"
            else:
                payloads.append(parts[1][indexes[1] :])
                kept.append(source)
                continue
            rejects.append(Undecodable(source, reason, shortened(text)))
        return payloads, kept


def _path(descriptor: Descriptor) -> list[int]:
    """Return where a type stands in its file: its index there, or those of the types around it and its own."""
    path: list[int] = []
    while descriptor is not None:
        around = descriptor.containing_type
        siblings = descriptor.file.message_types_by_name.values() if around is None else around.nested_types
        path.insert(0, [one.full_name for one in siblings].index(descriptor.full_name))
        descriptor = around
    return path


def _indexes(data: bytes) -> tuple[list[int], int] | None:
    """Return the indexes at the beginning of a framed payload, and where they end; None if they do not.

    References
    ----------
    https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html, "Wire format":
    their number and then each as a zigzag varint; a single 0 stands for the first type.
    """
    found = _varint(data, 0)
    if found is None or not 0 <= found[0] <= _MAX_INDEXES:
        return None
    count, at = found
    path = []
    for _ in range(count):
        found = _varint(data, at)
        if found is None:
            return None
        path.append(found[0])
        at = found[1]
    return path or [0], at


def _varint(data: bytes, at: int) -> tuple[int, int] | None:
    """Return a number whose sign is in its lowest bit, and where it ends."""
    bits = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            return None
        bits |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return (bits >> 1) ^ -(bits & 1), at
    return None


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise JobError(f"Protobuf: cannot read the descriptors {str(path)!r}: {error}") from error


def _build(raw: bytes, message: str) -> Any:
    """Return the class of a type, from a pool of its own."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError(
            "reading Protobuf messages needs protobuf: pip install 'onstream[formats]'"
        ) from error
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(raw)
    except DecodeError as error:
        raise JobError(f"Protobuf: the descriptors are no FileDescriptorSet: {error}") from error
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for file in files.file}
    try:
        # A pool wants each file after those that it imports; sets that are not from protoc may have another order.
        while waiting:
            ready = [
                file for file in waiting.values() if not any(name in waiting for name in file.dependency)
            ]
            for file in ready or list(waiting.values()):
                pool.AddSerializedFile(file.SerializeToString())
                del waiting[file.name]
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(message))
    except (KeyError, TypeError) as error:
        raise JobError(
            f"Protobuf: the descriptors have no complete type {message!r}: {error}; write them with "
            f"protoc --include_imports"
        ) from error

"""What an Arrow IPC stream claims to hold, before any of it is read."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyarrow as pa

from onstream.flatbuffers import field_at, follow, vector_at

__all__ = ["Claims", "claims_of"]

# Places of fields in the tables of Arrow's Message.fbs.
_HEADER = 2
_DICTIONARY_DATA = 1
_LENGTH, _BUFFERS, _COMPRESSION = 0, 2, 3

_BUFFER_BYTES = 16
_AS_IT_IS = -1


@dataclass(frozen=True, slots=True)
class Claims:
    """What the batches of a stream want, all of them together.

    Attributes
    ----------
    rows : int
        Of the record batches.
    bytes : int
        Of their buffers and those of dictionaries, decompressed.
    end : int
        Where the stream ends.
    """

    rows: int
    bytes: int
    end: int


def claims_of(stream: pa.Buffer) -> Claims:
    """Return what a stream claims.

    Raises
    ------
    ValueError
        If it is none (as `pyarrow.ArrowInvalid`, too), or a claim is negative or about what lies outside of it.

    Notes
    -----
    A compressed buffer begins with the size that it will have, and pyarrow believes it. Rows of null columns take no
    bytes at all, and rows of a dictionary few.

    References
    ----------
    https://arrow.apache.org/docs/format/Columnar.html, "Serialization and Interprocess Communication" and
    "Compression"; Message.fbs.
    """
    source = pa.BufferReader(stream)
    rows = size = 0
    try:
        for message in pa.ipc.MessageReader.open_stream(source):
            if message.type in ("record batch", "dictionary"):
                length, claimed = _batch(message)
                size += claimed
                rows += length if message.type == "record batch" else 0
    except struct.error as error:
        raise ValueError(f"its metadata points outside: {error}") from error
    return Claims(rows, size, source.tell())


def _batch(message: pa.Message) -> tuple[int, int]:
    """Return the rows and the bytes of one batch."""
    data = memoryview(message.metadata)
    header = field_at(data, follow(data, 0), _HEADER)
    if header is None:
        raise ValueError("a batch has no header")
    batch = follow(data, header)
    if message.type == "dictionary":
        inner = field_at(data, batch, _DICTIONARY_DATA)
        if inner is None:
            raise ValueError("a dictionary has no values")
        batch = follow(data, inner)
    length = field_at(data, batch, _LENGTH)
    rows = 0 if length is None else struct.unpack_from("<q", data, length)[0]
    body = memoryview(message.body) if message.body is not None else memoryview(b"")
    packed = field_at(data, batch, _COMPRESSION) is not None
    first, count = vector_at(data, batch, _BUFFERS)
    # One that does not hold its buffers would make the loop below long for nothing.
    if rows < 0 or first + count * _BUFFER_BYTES > len(data):
        raise ValueError("a batch claims what it cannot have")
    size = 0
    for i in range(count):
        offset, stored = struct.unpack_from("<qq", data, first + i * _BUFFER_BYTES)
        if offset < 0 or stored < 0 or offset + stored > len(body):
            raise ValueError("a buffer lies outside its batch")
        claimed = struct.unpack_from("<q", body, offset)[0] if packed and stored else _AS_IT_IS
        if claimed < _AS_IT_IS:
            raise ValueError("a buffer claims a negative size")
        size += stored if claimed == _AS_IT_IS else claimed
    return rows, size

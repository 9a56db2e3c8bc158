"""What the record batches of an Arrow IPC file say of themselves, without reading them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from onstream.flatbuffers import field_at, follow, vector_at

__all__ = ["is_plain"]

# "ARROW1" and before it the length of the footer.
_TAIL_BYTES = 10
_BLOCK_BYTES = 24
_CONTINUATION = b"\xff\xff\xff\xff"

# Places of fields in the tables of Arrow's File.fbs and Message.fbs.
_FOOTER_DICTIONARIES, _FOOTER_BATCHES = 2, 3
_MESSAGE_HEADER = 2
_BATCH_COMPRESSION = 3


def is_plain(data: pa.Buffer) -> bool:
    """Return whether no record batch of a file is compressed and no dictionary goes with them.

    Parameters
    ----------
    data : pyarrow.Buffer
        A file that pyarrow has opened, so that its footer is known to be well formed.

    Raises
    ------
    ValueError
        If what the footer points to lies outside the file.

    Notes
    -----
    A compressed batch says itself how much memory it wants, and pyarrow believes it; there is no other way to ask
    before it is read.

    References
    ----------
    https://arrow.apache.org/docs/format/Columnar.html, "Serialization and Interprocess Communication".
    """
    try:
        return _is_plain(memoryview(data))
    except struct.error as error:
        raise ValueError(f"its footer points out of the file: {error}") from error


def _is_plain(data: memoryview) -> bool:
    (size,) = struct.unpack_from("<i", data, len(data) - _TAIL_BYTES)
    footer = data[len(data) - _TAIL_BYTES - size : len(data) - _TAIL_BYTES]
    root = follow(footer, 0)
    if any(True for _ in _offsets(footer, root, _FOOTER_DICTIONARIES)):
        return False
    for offset in _offsets(footer, root, _FOOTER_BATCHES):
        if not 0 <= offset < len(data):
            raise ValueError(f"its footer points to byte {offset}, it has {len(data)}")
        message = data[offset + (8 if bytes(data[offset : offset + 4]) == _CONTINUATION else 4) :]
        header = field_at(message, follow(message, 0), _MESSAGE_HEADER)
        if header is None or field_at(message, follow(message, header), _BATCH_COMPRESSION) is not None:
            return False
    return True


def _offsets(data: memoryview, table: int, place: int) -> Iterator[int]:
    """Yield where each of a footer's blocks begins in the file."""
    first, count = vector_at(data, table, place)
    for i in range(count):
        yield struct.unpack_from("<q", data, first + i * _BLOCK_BYTES)[0]

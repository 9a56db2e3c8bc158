"""Text files, line by line in large blocks: positions are bytes, and no line is lost or given twice."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Chunk, Reject
from onstream.streams.chunks import PAST_END, skip_to

__all__ = [
    "BLOCK_BYTES",
    "DAMAGED_TEXT",
    "Bytes",
    "LineParser",
    "Lines",
    "PackedBytes",
    "PlainBytes",
    "read_lines",
]

BLOCK_BYTES = 4 << 20
"""How much of a file is read at once. Larger blocks leave the processor's cache; smaller ones cost calls."""

DAMAGED_TEXT = "damaged compressed file"

_GRID_BYTES = 256 << 10
_NEWLINE, _RETURN = 10, 13


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of a block: line `i` is ``data[starts[i]:ends[i]]``, with its line end.

    Attributes
    ----------
    data : bytes
    starts, ends : ndarray of int64, shape (n,)
        Between `starts[0]` and `ends[-1]` lie these lines and blank ones only.
    """

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of lines."""
        return len(self.starts)

    def filled(self) -> Lines:
        """Return the lines that hold more than a line end."""
        short = np.flatnonzero(self.ends - self.starts <= 2)
        if not len(short):
            return self
        data = np.frombuffer(self.data, np.uint8)
        first, last = data[self.starts[short]], data[self.ends[short] - 1]
        blank = short[np.isin(first, (_NEWLINE, _RETURN)) & np.isin(last, (_NEWLINE, _RETURN))]
        return Lines(self.data, np.delete(self.starts, blank), np.delete(self.ends, blank))

    def whole(self) -> pa.Buffer:
        """Return all lines and the blank ones between them, without copying."""
        first = int(self.starts[0])
        return pa.py_buffer(self.data).slice(first, int(self.ends[-1]) - first)

    def line(self, i: int) -> bytes:
        """Return one line without its line end."""
        return self.data[self.starts[i] : self.ends[i]].rstrip(b"\r\n")

    def join(self, which: list[int]) -> bytes:
        """Return the chosen lines as one text, each with a line end."""
        return b"".join(self.line(i) + b"\n" for i in which)


class LineParser(Protocol):
    """How lines that are not blank become rows. Every line is either one row or one reject."""

    schema: pa.Schema

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""


class Bytes(Protocol):
    """The bytes of a file. Reads never go back before the position of the read before."""

    damage: str | None

    def read_at(self, position: int, size: int) -> bytes:
        """Return `size` bytes from `position` on; fewer at the end."""

    def close(self) -> None:
        """Close the file."""


class PlainBytes:
    """The bytes of a file as they are on disk.

    Parameters
    ----------
    path : Path
    """

    damage: str | None = None

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = path.open("rb", buffering=0)

    def read_at(self, position: int, size: int) -> bytes:
        """Return `size` bytes from `position` on; fewer at the end."""
        return os.pread(self._file.fileno(), size, position)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PackedBytes:
    """The decompressed bytes of a file.

    Parameters
    ----------
    path : Path
    compression : {"gzip", "zstd"}

    Notes
    -----
    Where a file is damaged, the text ends. It is always read on one grid, so that the text ends at the same
    byte wherever reading began.
    """

    def __init__(self, path: Path, compression: str) -> None:
        """Open the file."""
        self.damage: str | None = None
        self._file = pa.input_stream(str(path), compression=compression)
        self._buffer = bytearray()
        self._begin = 0
        self._at_end = False

    def read_at(self, position: int, size: int) -> bytes:
        """Return `size` bytes from `position` on; fewer at the end."""
        while self._begin + len(self._buffer) < position + size and not self._at_end:
            self._drop(position)
            self._more()
        self._drop(position)
        at = position - self._begin
        return bytes(self._buffer[at : at + size])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _drop(self, position: int) -> None:
        """Forget what lies before `position`."""
        size = min(position - self._begin, len(self._buffer))
        del self._buffer[:size]
        self._begin += size

    def _more(self) -> None:
        """Decompress one step of the grid."""
        try:
            data = self._file.read(_GRID_BYTES)
        except (OSError, pa.ArrowException) as error:
            if getattr(error, "errno", None):
                raise
            self.damage = str(error)
            data = b""
        self._at_end = not data
        self._buffer += data


def read_lines(
    source: Bytes,
    partition: str,
    position: int,
    parser: LineParser,
    *,
    max_rows: int,
    max_line_bytes: int,
    follow: bool,
    stop: threading.Event,
) -> Iterator[Chunk]:
    """Yield the rows of a text from byte `position` on, to its end as it is now.

    Parameters
    ----------
    follow : bool
        Whether a last line without line end may still grow; it is then left for the next call.

    Notes
    -----
    Memory is bounded by a few times the larger of `BLOCK_BYTES` and `max_line_bytes`.
    """
    size = BLOCK_BYTES
    while not stop.is_set():
        data = source.read_at(position, size)
        at_end = len(data) < size
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
        if at_end and not follow and not source.damage and data and data[-1] != _NEWLINE:
            ends = np.append(ends, len(data))
        starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
        long = np.flatnonzero(ends - starts > max_line_bytes)
        if len(long):
            starts, ends = starts[: long[0]], ends[: long[0]]
        if len(ends):
            size = BLOCK_BYTES
            used = 0
            while used < len(ends) and not stop.is_set():
                # A small rest is read again with what follows it: few large chunks are faster than many.
                if used and len(ends) - used < max_rows // 2 and not at_end and not len(long):
                    break
                chosen = slice(used, used + max_rows)
                yield _chunk(data, starts[chosen], ends[chosen], partition, position, parser)
                used += max_rows
            position += int(ends[min(used, len(ends)) - 1])
        elif len(data) > max_line_bytes:
            end = _line_end(source, position, stop)
            if end is None or (follow and not end[1]):
                return
            reason = f"line longer than {max_line_bytes} bytes"
            reject = Reject(partition, position, reason, data[:1000].decode(errors="replace"))
            yield skip_to(partition, end[0], [reject], parser.schema)
            position = end[0]
        elif at_end:
            break
        else:
            size = min(4 * size, max_line_bytes + 1)
    if source.damage and not stop.is_set():
        reject = Reject(partition, position, DAMAGED_TEXT, source.damage)
        yield skip_to(partition, PAST_END, [reject], parser.schema)


def _chunk(
    data: bytes,
    starts: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
    partition: str,
    offset: int,
    parser: LineParser,
) -> Chunk:
    """Parse some lines of a block that begins at byte `offset`."""
    after = offset + int(ends[-1])
    filled = Lines(data, starts, ends).filled()
    if not len(filled):
        return skip_to(partition, after, (), parser.schema)
    batch, bad = parser.parse(filled)
    row_ends = filled.ends
    rejects = []
    if bad:
        row_ends = np.delete(row_ends, list(bad))
        for i, reason in sorted(bad.items()):
            value = filled.line(i)[:4000].decode(errors="replace")[:1000]
            rejects.append(Reject(partition, offset + int(filled.starts[i]), reason, value))
    assert len(row_ends) == batch.num_rows
    return Chunk(batch, partition, after, row_ends + offset, tuple(rejects))


def _line_end(source: Bytes, position: int, stop: threading.Event) -> tuple[int, bool] | None:
    """Return where the line at `position` ends and whether it is complete; None when stopped."""
    while not stop.is_set():
        data = source.read_at(position, BLOCK_BYTES)
        found = data.find(b"\n")
        if found >= 0:
            return position + found + 1, True
        position += len(data)
        if len(data) < BLOCK_BYTES:
            return position, False
    return None

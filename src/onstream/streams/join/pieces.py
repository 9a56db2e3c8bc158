"""Rows as they came, kept as immutable record batches in memory and, beyond a limit, on disk."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import State
from onstream.errors import CheckpointError, StreamError

__all__ = ["Memory", "Piece", "Pieces"]

Numbers = npt.NDArray[np.int64]

_BYTES = "arrow"
_FULL_ROWS = 1 << 16
# A piece is full with this share of the memory too, so that wide rows can be moved out in time.
_FULL_SHARE = 16
# Left for rows on their way in and out, of which there are several chunks, and for what allocators keep.
_ON_THE_WAY_BYTES = 256_000_000

_libc = ctypes.CDLL(None, use_errno=True)


class Memory:
    """What all that waits may take in memory, and where rows go that do not fit.

    Parameters
    ----------
    limit_bytes : int
    folder : path
        Made when it is needed. Files in it have no name once they are mapped: they go when the process does.

    Attributes
    ----------
    used_bytes, spilled_bytes : int
        What rows take in memory and on disk now.
    index_bytes : int
        What is needed to find them, and stays in memory; whoever has it says how much it is.
    """

    def __init__(self, limit_bytes: int, folder: Path) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.spilled_bytes = 0
        self.index_bytes = 0
        self._folder = folder

    @property
    def too_much(self) -> bool:
        """Whether rows must move out. However large the index is, waiting rows have an eighth."""
        room = self.limit_bytes - min(self.limit_bytes // 2, _ON_THE_WAY_BYTES) - self.index_bytes
        return self.used_bytes > max(room, self.limit_bytes // 8)

    @property
    def full_bytes(self) -> int:
        """How large a piece grows."""
        return max(1, self.limit_bytes // _FULL_SHARE)

    def map(self, data: pa.Buffer) -> pa.Buffer:
        """Return the bytes, mapped from a file; no file stays open for them, since there may be many thousands."""
        path = self._folder / f"join-{secrets.token_hex(8)}.arrow"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("xb") as file:
                    file.write(data)
                # Arrow's mapping outlives its file, for as long as there are views of it. Python's keeps the file open.
                with pa.memory_map(str(path)) as mapped:
                    return mapped.read_buffer()
            finally:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StreamError(
                f"cannot move {data.size:,} waiting bytes out of memory to {str(self._folder)!r}: "
                f"{error.strerror or error}; make room there, or give the join another folder or more memory"
            ) from error


class Piece:
    """Some neighbouring rows; immutable, wherever its bytes are.

    Attributes
    ----------
    first : int
        Number of its first row.
    batch : pyarrow.RecordBatch
    latest : int
        Time after which none of its rows is needed.
    """

    __slots__ = ("_data", "_lock", "_mapped", "_state", "batch", "first", "latest", "serial", "spilled")

    def __init__(self, serial: int, first: int, batch: pa.RecordBatch, latest: int) -> None:
        self.serial = serial
        self.first = first
        self.batch = batch
        self.latest = latest
        self.spilled = False
        self._data: pa.Buffer | None = None
        self._mapped: pa.Buffer | None = None
        self._state: State | None = None
        # Checkpoints are made by another thread than the one that moves pieces to disk.
        self._lock = threading.Lock()

    @property
    def end(self) -> int:
        """Number after that of its last row."""
        return int(self.first + self.batch.num_rows)

    @property
    def size_bytes(self) -> int:
        """What its rows take."""
        return int(self.batch.nbytes if self._data is None else self._data.size)

    def state(self) -> State:
        """Return the rows as one Arrow IPC stream; the same object each time."""
        with self._lock:
            if self._state is None:
                self._state = State({_BYTES: np.frombuffer(self._pack(), np.uint8)})
            return self._state

    def pack(self) -> None:
        """Make the bytes, of which the batch becomes a view: they are there once."""
        with self._lock:
            self._pack()

    def spill(self, memory: Memory) -> None:
        """Move the bytes to a file."""
        with self._lock:
            self._mapped = memory.map(self._pack())
            self._take(self._mapped)
            self.spilled = True
            if self._state is not None:
                # Same bytes: whoever holds the state sees no difference.
                self._state.arrays[_BYTES] = np.frombuffer(self._pack(), np.uint8)

    def rest(self) -> None:
        """Give back the memory of pages that were read of a file; they are read again when they are needed."""
        if self._mapped is not None:
            start, size = ctypes.c_void_p(self._mapped.address), ctypes.c_size_t(self._mapped.size)
            if _libc.madvise(start, size, mmap.MADV_DONTNEED):
                raise OSError(ctypes.get_errno(), "madvise")

    def _pack(self) -> pa.Buffer:
        if self._data is None:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, self.batch.schema) as writer:
                writer.write_batch(self.batch)
            self._take(sink.getvalue())
        assert self._data is not None
        return self._data

    def _take(self, data: pa.Buffer) -> None:
        self._data, self.batch = data, _unpacked(data)


class Pieces:
    """Rows numbered as they come, in pieces of growing size.

    Parameters
    ----------
    memory : Memory
        May be shared with others.

    Notes
    -----
    Neighbours of like size are joined until they are full, so that there are few, and a row is copied seldom: as
    in a binary counter. What a checkpoint has of a full piece it needs not write again.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.pieces: list[Piece] = []
        self.end = 0
        self._serial = 0

    def append(self, batch: pa.RecordBatch, latest: int) -> None:
        """Add rows, none of which is needed after the time `latest`."""
        if not batch.num_rows:
            return
        self._add(Piece(self._next_serial(), self.end, batch, latest))
        while len(self.pieces) > 1 and self._joins(*self.pieces[-2:]):
            self._join_last()
        if self._full(last := self.pieces[-1]):
            # Now, and not when a checkpoint asks for it, for which learning stands still.
            self._uncount(last)
            last.pack()
            self._count(last)
        self._make_room()

    def forget(self, time: int) -> None:
        """Drop pieces none of whose rows is needed after `time`."""
        if all(piece.latest > time for piece in self.pieces):
            return
        for piece in self.pieces:
            if piece.latest <= time:
                self._uncount(piece)
        self.pieces = [piece for piece in self.pieces if piece.latest > time]

    def clear(self) -> None:
        """Drop everything, and number from 0 again."""
        for piece in self.pieces:
            self._uncount(piece)
        self.pieces, self.end = [], 0

    def take(self, numbers: Numbers) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
        """Yield rows and their places in `numbers`, which ascend; rows in one piece come together."""
        at = 0
        firsts = [piece.first for piece in self.pieces]
        while at < len(numbers):
            piece = self.pieces[int(np.searchsorted(firsts, numbers[at], "right")) - 1]
            stop = int(np.searchsorted(numbers, piece.end, "left"))
            local = numbers[at:stop] - piece.first
            count = stop - at
            if local[-1] - local[0] + 1 == count and (count < 2 or bool((np.diff(local) == 1).all())):
                yield piece.batch.slice(int(local[0]), count), np.arange(at, stop)
            else:
                yield piece.batch.take(pa.array(local)), np.arange(at, stop)
            at = stop

    def reserve(self, serials: Iterable[int]) -> None:
        """Leave these numbers to pieces that are still to be loaded: those in between may be joined, and get others."""
        self._serial = max(self._serial, *(serial + 1 for serial in serials), 0)

    def load(self, serial: int, state: State, latest: int, name: str) -> pa.RecordBatch:
        """Add the rows of a state that a piece gave, and return them."""
        try:
            batch = _unpacked(pa.py_buffer(state.arrays[_BYTES]))
        except (pa.ArrowException, KeyError, OSError) as error:
            raise CheckpointError(
                f"state {name!r} of the checkpoint holds no rows that a join left: {error}"
            ) from error
        piece = Piece(serial, self.end, batch, latest)
        self._add(piece)
        self._make_room()
        return batch

    def _add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.end = piece.end
        self._count(piece)

    def _count(self, piece: Piece) -> None:
        if piece.spilled:
            self.memory.spilled_bytes += piece.size_bytes
        else:
            self.memory.used_bytes += piece.size_bytes

    def _uncount(self, piece: Piece) -> None:
        if piece.spilled:
            self.memory.spilled_bytes -= piece.size_bytes
        else:
            self.memory.used_bytes -= piece.size_bytes

    def _joins(self, left: Piece, right: Piece) -> bool:
        return (
            not left.spilled
            and left.end == right.first
            and right.batch.num_rows >= left.batch.num_rows // 2
            and not self._full(left)
            and left.batch.schema.equals(right.batch.schema)
        )

    def _full(self, piece: Piece) -> bool:
        return piece.batch.num_rows >= _FULL_ROWS or piece.size_bytes >= self.memory.full_bytes

    def _join_last(self) -> None:
        left, right = self.pieces[-2:]
        batch = joined([left.batch, right.batch])
        del self.pieces[-2:]
        for piece in (left, right):
            self._uncount(piece)
        self._add(Piece(self._next_serial(), left.first, batch, max(left.latest, right.latest)))

    def _make_room(self) -> None:
        """Move rows to disk until the others fit: the newest full pieces first, as they are needed last."""
        memory = self.memory
        while memory.too_much:
            here = [piece for piece in self.pieces if not piece.spilled]
            full = [piece for piece in here if self._full(piece)]
            if full:
                self._spill(full[-1])
            elif here:
                self._spill(self._gathered(here))
            else:
                return

    def _gathered(self, tail: Sequence[Piece]) -> Piece:
        """Return the last run of small pieces that can be one, as one."""
        run = [tail[-1]]
        for left, right in itertools.pairwise(reversed(tail)):
            del left
            if right.end != run[-1].first or not right.batch.schema.equals(run[-1].batch.schema):
                break
            run.append(right)
        if len(run) == 1:
            return run[0]
        run.reverse()
        at = self.pieces.index(run[0])
        piece = Piece(
            self._next_serial(),
            run[0].first,
            joined([piece.batch for piece in run]),
            max(piece.latest for piece in run),
        )
        for old in run:
            self._uncount(old)
        self.pieces[at : at + len(run)] = [piece]
        self._count(piece)
        return piece

    def _spill(self, piece: Piece) -> None:
        self._uncount(piece)
        piece.spill(self.memory)
        for other in self.pieces:
            other.rest()
        # Allocators keep what is given back to them, and this was much.
        pa.default_memory_pool().release_unused()
        self._count(piece)

    def _next_serial(self) -> int:
        self._serial += 1
        return self._serial - 1


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return batches of one schema as one."""
    if len(batches) == 1:
        return batches[0]
    return pa.concat_batches(batches)


def _unpacked(data: pa.Buffer) -> pa.RecordBatch:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()

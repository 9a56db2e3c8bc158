"""Rows by key: an index over arrays that only grow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onstream.contracts import Keys
from onstream.streams.join.keys import JoinKeys

__all__ = ["KeyIndex"]

_EMPTY = np.uint32(0xFFFF_FFFF)


class KeyIndex:
    """Find rows by their key, many at once.

    Parameters
    ----------
    hashes : ndarray of uint64, shape (capacity,)
    checks : ndarray of uint32, shape (capacity,)
        The keys of the rows; written by whoever owns them, before the rows are put in.

    Notes
    -----
    Open addressing with linear probing: 8 bytes a row, at most half of the slots are taken. Nothing is ever
    removed; the index goes as a whole when its rows do.
    """

    def __init__(self, hashes: Keys, checks: npt.NDArray[np.uint32]) -> None:
        size = 2 * max(8, 1 << (len(hashes) - 1).bit_length())
        self._hashes = hashes
        self._checks = checks
        self._slots = np.full(size, _EMPTY, np.uint32)
        self._mask = np.uint64(size - 1)

    @property
    def size_bytes(self) -> int:
        """What the slots take."""
        return int(self._slots.nbytes)

    def find(self, keys: JoinKeys) -> npt.NDArray[np.int64]:
        """Return the row of each key; -1 where there is none."""
        found = np.full(len(keys.hashes), -1, np.int64)
        wanted = np.arange(len(found))
        at = self._home(keys.hashes)
        while len(wanted):
            rows = self._slots[at]
            full = rows != _EMPTY
            if not full.all():
                rows, wanted, at = rows[full], wanted[full], at[full]
            same = self._hashes[rows] == keys.hashes[wanted]
            same &= self._checks[rows] == keys.checks[wanted]
            found[wanted[same]] = rows[same]
            other = ~same
            wanted, at = wanted[other], self._next(at[other])
        return found

    def put(self, rows: npt.NDArray[np.int64]) -> None:
        """Make rows of distinct keys findable; each takes the place of an older row of its key."""
        rows = rows.astype(np.uint32)
        at = self._home(self._hashes[rows])
        while len(rows):
            there = self._slots[at]
            # An empty slot compares with row 0, and is taken whatever comes out.
            real = np.where(there == _EMPTY, np.uint32(0), there)
            takes = there == _EMPTY
            takes |= (self._hashes[real] == self._hashes[rows]) & (self._checks[real] == self._checks[rows])
            self._slots[at[takes]] = rows[takes]
            # Of several rows that took one empty slot, one has it now.
            left = self._slots[at] != rows
            rows, at = rows[left], self._next(at[left])

    def _home(self, hashes: Keys) -> npt.NDArray[np.int64]:
        return (hashes & self._mask).astype(np.int64)

    def _next(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return (at + 1) & int(self._mask)

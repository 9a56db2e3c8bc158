"""How declarations of ids fill a batch with plain values, for learners that have no embedding tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.features.columns import hash_ids, read_lists, read_numbers, read_values
from onstream.features.slots import Draft, Fault, hash_faults, list_faults, number_faults

__all__ = ["PlainBucketSlot", "PlainIdSlot", "PlainListSlot"]


@dataclass(frozen=True, slots=True)
class PlainIdSlot:
    """An `Id`: its values as texts. What has no key is bad here too."""

    column: str
    name: str
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read the values."""
        codes = hash_ids(column, 0, np.empty(len(column), np.uint64))
        draft.plain[self.name][rows] = read_values(column)
        return [] if codes is None else hash_faults(self.column, codes)


@dataclass(frozen=True, slots=True)
class PlainBucketSlot:
    """A `Number` with bounds: the number of the bucket."""

    column: str
    name: str
    bounds: npt.NDArray[np.float64]
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Look up the bucket of each number."""
        values, bad = read_numbers(column)
        found = np.searchsorted(self.bounds, values, side="right").tolist()
        nulls = np.isnan(values).tolist()
        draft.plain[self.name][rows] = [None if null else at for at, null in zip(found, nulls, strict=True)]
        return number_faults(self.column, bad, np.isinf(values))


@dataclass(frozen=True, slots=True)
class PlainListSlot:
    """An `IdList`: a list of texts a row, cut off where the declaration says."""

    column: str
    name: str
    length: int
    separator: str | None
    max_length: int
    asked: bool = True

    def fill(self, column: pa.Array, rows: slice, draft: Draft) -> list[Fault]:
        """Read all elements, then set them apart by row."""
        elements, lengths = read_lists(column, self.separator)
        codes = hash_ids(elements, 0, np.empty(len(elements), np.uint64))
        values = read_values(elements)
        ends = np.cumsum(lengths)
        begins = ends - lengths
        if self.length:
            ends = np.minimum(ends, begins + self.length)
        draft.plain[self.name][rows] = [
            values[begin:end] for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
        ]
        return list_faults(self.column, self.max_length, lengths, codes)

"""All `Id` columns of a record batch hashed at once: one call instead of one a column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.core import hash_batch
from onstream.features.slots import Draft, IdSlot

__all__ = ["IdBlock"]


class _Work(NamedTuple):
    """What `hash_batch` is to do for one table."""

    columns: npt.NDArray[np.int32]
    salts: npt.NDArray[np.uint64]
    places: npt.NDArray[np.int32]


class IdBlock:
    """The `Id` features of a job, by table. May be used by any number of threads."""

    def __init__(self, slots: Sequence[IdSlot]) -> None:
        self._slots = {table: [s for s in slots if s.table == table] for table in {s.table for s in slots}}
        # Where the columns stand, for the names that were met last: batches of one stream have the same.
        self._met: tuple[list[str], dict[str, _Work] | None] = ([], None)

    def fill(self, batch: pa.RecordBatch, rows: slice, draft: Draft) -> bool:
        """Hash every column into its place, and tell whether that was possible for all of them.

        Where it was not, because a column is missing or a value has no key, each slot is to be filled alone: it
        finds out what is wrong.
        """
        met = self._met
        names = batch.schema.names
        if met[0] != names:
            self._met = met = (names, self._find(names))
        work = met[1]
        return work is not None and all(
            hash_batch(batch, found.columns, found.salts, found.places, draft.blocks[table][rows])
            for table, found in work.items()
        )

    def _find(self, names: list[str]) -> dict[str, _Work] | None:
        """Return what there is to do for columns of these names; None if not each is there, and there once."""
        if any(names.count(slot.column) != 1 for slots in self._slots.values() for slot in slots):
            return None
        return {
            table: _Work(
                np.array([names.index(s.column) for s in slots], np.int32),
                np.array([s.salt for s in slots], np.uint64),
                np.array([s.index for s in slots], np.int32),
            )
            for table, slots in self._slots.items()
        }

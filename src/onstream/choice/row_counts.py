"""How often the trainer has seen each id of a feature, as a checkpoint tells it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.core import salt
from onstream.errors import CheckpointError, JobError
from onstream.features import Features, Id
from onstream.features.columns import hash_ids
from onstream.features.description import declare
from onstream.features.layout import row_owner

__all__ = ["RowCounts"]


class RowCounts:
    """Counts of the embedding rows of one `Id`: from how many examples a candidate is known.

    Parameters
    ----------
    directory : path
        Of the model.
    feature : str
        The `Id` that tells candidates apart, such as "item".
    tag : str, optional
        Of which version; the newest whole one by default.

    Attributes
    ----------
    version : int
        Whose counts these are.
    column : str
        Which the feature reads: that of the ids to ask for.

    Raises
    ------
    JobError
        If the model has no such feature.
    CheckpointError
        If there is no version that can be read.

    Notes
    -----
    `Thompson` by these takes what is predicted of a candidate to be as sure as its share of so many examples would be.
    That is right when the id alone decides the reward, and a guess otherwise: too sure where candidates meet a context
    that is new to them.
    """

    def __init__(self, directory: str | os.PathLike[str], feature: str, *, tag: str | None = None) -> None:
        self._directory = directory
        self._log = CheckpointLog(LocalStore(directory))
        self._feature = feature
        self._tag = tag
        self.version = 0
        self.poll()

    def poll(self) -> bool:
        """Read the newest whole version, or that of the tag; return whether it is another one."""
        if self._tag is None:
            manifest = self._log.newest()
            if manifest is None:
                raise CheckpointError(f"there is no whole version in {str(self._directory)!r} yet")
        else:
            manifest = self._log.read(self._log.resolve(self._tag))
        if manifest.version == self.version:
            return False
        described = manifest.facts["job"]["features"]
        fields = {field.name: field for field in Features.restore(described).layout.fields}
        declared = {facts["name"]: declare(facts) for facts in described["declarations"]}
        feature = declared.get(self._feature)
        if not isinstance(feature, Id) or not fields[self._feature].table:
            ids = [name for name, d in declared.items() if isinstance(d, Id) and fields[name].table]
            raise JobError(f"{self._feature!r} has no embedding rows to count; those that have: {ids}")
        keys, counts = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint32)]
        for delta in self._log.rows(manifest, fields[self._feature].table, columns=("count",)):
            keys += [delta.deleted, delta.keys]
            counts += [np.zeros(len(delta.deleted), np.uint32), delta.count]
        # Later rows overwrite earlier ones.
        joined, found = np.concatenate(keys)[::-1], np.concatenate(counts)[::-1]
        self._keys, at = np.unique(joined, return_index=True)
        self._counts = found[at].astype(np.float64)
        self._salt = salt(row_owner(feature))
        self.column = feature.source
        self.version = manifest.version
        return True

    def of(self, ids: pa.Array | npt.NDArray[Any] | list[Any]) -> npt.NDArray[np.float64]:
        """Return how often each id was seen, (rows,); 0 for one without a row."""
        column = ids if isinstance(ids, pa.Array) else pa.array(ids)
        keys = np.empty(len(column), np.uint64)
        hash_ids(column, self._salt, keys)
        if not len(self._keys):
            return np.zeros(len(keys))
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._counts[at], 0.0)

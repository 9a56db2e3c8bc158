"""Embedding tables: rows by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onstream.contracts.values import Keys, Rows
from onstream.core import Plan

__all__ = ["Delta", "RowPolicy", "RowTable", "TableSpec"]


class RowPolicy(Protocol):
    """A frozen, comparable description (of an optimizer, initialiser, admission or expiry)."""

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values, with its name under "kind"."""


@dataclass(frozen=True)
class TableSpec:
    """What makes a table: features that agree on all of `policy` and `dim` live in one.

    Attributes
    ----------
    name : str
    dim : int
        Floats of one row that the network sees.
    policy : dict
        Optimizer, initialiser, admission and expiry, as the features declared them.
    features : tuple of str
        The features whose rows live here.
    """

    name: str
    dim: int
    policy: Mapping[str, RowPolicy | None]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows of one table, cut out for a checkpoint. Arrays own their memory; nothing else writes to them.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
    seen : ndarray of uint32, shape (n,)
        Event time at which the key was last seen, seconds since 1970.
    count : ndarray of uint32, shape (n,)
        How often the key was seen.
    weights : ndarray of float32, shape (n, dim)
    state : ndarray of float32, shape (n, width)
        What the row optimizer remembers.
    deleted : ndarray of uint64, shape (m,)
        Keys dropped since the last cut. No key is in both `keys` and `deleted`.
    bounds, deleted_bounds : ndarray of int64, shape (partitions + 1,)
        Rows of partition `p` are ``bounds[p]:bounds[p + 1]``. A key's partition depends on the key alone, so
        deltas can be merged partition by partition.
    """

    keys: Keys
    seen: npt.NDArray[np.uint32]
    count: npt.NDArray[np.uint32]
    weights: Rows
    state: Rows
    deleted: Keys
    bounds: npt.NDArray[np.int64]
    deleted_bounds: npt.NDArray[np.int64]


class RowTable(Protocol):
    """Rows by key. A table in this process and one sharded over a cluster are the same two verbs."""

    def pull(
        self,
        keys: Keys,
        *,
        now: int = 0,
        learn: bool = True,
        out: Rows | None = None,
        plan: Plan | None = None,
    ) -> Rows:
        """Return the rows of `keys`, float32 (n, dim), in `out` if it is given.

        With `learn`, keys without a row are admitted. A `plan` is one of the same keys, made ahead.
        """

    def push(self, keys: Keys, grads: Rows, *, plan: Plan | None = None) -> None:
        """Apply one gradient step; gradients of a repeated key are summed in order of occurrence."""

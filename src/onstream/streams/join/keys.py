"""Join keys as 96 bits of hash: impressions and feedback of equal keys meet, whatever types their columns have."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Keys
from onstream.core import hash_column, salt

__all__ = ["JoinKeys", "first_of_each", "read_keys"]

_SALT = salt("onstream.join")
_CHECK_SALT = salt("onstream.join.check")


class JoinKeys(NamedTuple):
    """Keys of rows.

    Attributes
    ----------
    hashes : ndarray of uint64, shape (rows,)
        Distinct for distinct integers.
    checks : ndarray of uint32, shape (rows,)
        Bits of a second hash: two texts that agree in both are taken for equal. Among a billion waiting texts
        that happens by chance once in 10^11 times.
    """

    hashes: Keys
    checks: npt.NDArray[np.uint32]

    def take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> JoinKeys:
        """Return the keys of some rows."""
        return JoinKeys(self.hashes[rows], self.checks[rows])


def read_keys(column: pa.Array) -> tuple[JoinKeys, npt.NDArray[np.bool_] | None]:
    """Read a column of keys; also which rows have none, None when every row has one.

    Integers and their decimal texts are equal. Raises ColumnError for a type that cannot be a key.
    """
    hashes, others = np.empty(len(column), np.uint64), np.empty(len(column), np.uint64)
    faults = hash_column(column, _SALT, hashes)
    hash_column(column, _CHECK_SALT, others)
    bad = None if faults is None else faults != 0
    if column.null_count or pa.types.is_floating(column.type):
        null = np.asarray(column.is_null(nan_is_null=True))
        bad = null if bad is None else bad | null
    return JoinKeys(hashes, (others >> np.uint64(32)).astype(np.uint32)), bad


def first_of_each(keys: JoinKeys) -> npt.NDArray[np.bool_]:
    """Return which rows are the first of their key."""
    _, first, group = np.unique(keys.hashes, return_index=True, return_inverse=True)
    if len(first) == len(keys.hashes):
        return np.ones(len(keys.hashes), bool)
    leader = first[group]
    # A row with the leader's hash and another check is another key.
    return np.asarray((leader == np.arange(len(group))) | (keys.checks != keys.checks[leader]))

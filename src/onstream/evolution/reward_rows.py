"""Rewards as rows: which perturbation of which version earned what."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Array

__all__ = ["REWARDS", "read_rewards", "reward_rows"]

REWARDS = pa.schema([("key", pa.int64()), ("version", pa.int64()), ("reward", pa.float64())])
"""The columns of the log: which perturbation of which version earned what."""


def reward_rows(keys: npt.ArrayLike, versions: npt.ArrayLike, rewards: npt.ArrayLike) -> pa.RecordBatch:
    """Return rewards as rows of the log."""
    columns = [np.asarray(keys, np.int64), np.asarray(versions, np.int64), np.asarray(rewards, np.float64)]
    return pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=REWARDS)


def read_rewards(rows: pa.RecordBatch) -> tuple[Array, Array, Array]:
    """Return keys, versions and rewards of rows; what cannot be read has the version -1, which never was."""
    missing = [name for name in REWARDS.names if name not in rows.schema.names]
    if missing:
        return (
            np.zeros(rows.num_rows, np.int64),
            np.full(rows.num_rows, -1, np.int64),
            np.zeros(rows.num_rows),
        )
    keys, versions, rewards = (_column(rows.column(field.name), field.type) for field in REWARDS)
    keys, versions = np.nan_to_num(keys, nan=-1), np.nan_to_num(versions, nan=-1)
    versions = np.where(keys < 0, -1, versions)
    return keys.astype(np.int64), versions.astype(np.int64), rewards.astype(np.float64)


def _column(column: pa.Array, wanted: pa.DataType) -> Array:
    try:
        found = pc.cast(column, wanted)
    except pa.ArrowException:
        return np.full(len(column), np.nan)
    array: Array = found.to_numpy(zero_copy_only=False)
    return array

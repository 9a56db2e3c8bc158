"""Where rewards are logged between those who act and those who learn."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Array, Positions, Stream
from onstream.errors import JobError
from onstream.streams import Log

__all__ = ["REWARDS", "RewardLog", "Rewards", "open_rewards", "read_rewards"]

REWARDS = pa.schema([("key", pa.int64()), ("version", pa.int64()), ("reward", pa.float64())])
"""The columns of the log: which perturbation of which version earned what."""

FILE = "rewards.db"

# Of the embedded log, after which the oldest go: rewards older than some updates do not count anyway.
_RETENTION_ROWS = 1_000_000


class Rewards(Protocol):
    """A log of rewards."""

    def append(self, rows: pa.RecordBatch) -> None:
        """Append rows of `REWARDS`: all of them or none, durable when this returns."""

    def stream(self, *, follow: bool) -> Stream:
        """Return what was appended, as a stream."""

    def behind(self, positions: Positions) -> int:
        """Return how many rewards lie after `positions`."""

    def close(self) -> None:
        """Let go of what is open."""


class RewardLog:
    """Rewards in the embedded log, ``rewards.db`` of the model directory.

    Parameters
    ----------
    directory : path
    """

    def __init__(self, directory: str | Path) -> None:
        self._log = Log(Path(directory) / FILE, retention_rows=_RETENTION_ROWS, on_loss="skip")

    def append(self, rows: pa.RecordBatch) -> None:
        """Append rows."""
        self._log.append(rows)

    def stream(self, *, follow: bool) -> Stream:
        """Return the log as a stream."""
        return self._log.replay(follow=follow)

    def behind(self, positions: Positions) -> int:
        """Return how many rewards lie after `positions`."""
        return self._log.behind(positions)[0]

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def open_rewards(directory: str | Path, url: str | None) -> Rewards:
    """Return the log of rewards of a model directory.

    Parameters
    ----------
    directory : path
    url : str, optional
        ``kafka://host:port/topic``; without it, the embedded log.

    Raises
    ------
    JobError
        If it is no such URL.
    """
    if url is None:
        return RewardLog(directory)
    raise JobError(f"rewards must be logged to kafka://host:port/topic, got {url!r}")


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

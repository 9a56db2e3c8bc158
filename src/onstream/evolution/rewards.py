"""Where rewards are logged between those who act and those who learn."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pyarrow as pa

from onstream.contracts import Positions, Stream
from onstream.evolution.reward_topic import RewardTopic
from onstream.streams import Log

__all__ = ["RewardLog", "Rewards", "open_rewards"]

FILE = "rewards.db"

# Of the embedded log, after which the oldest go: rewards older than some updates do not count anyway.
_RETENTION_ROWS = 1_000_000


class Rewards(Protocol):
    """A log of rewards.

    Attributes
    ----------
    poll_s : float
        How often `behind` may be asked.
    """

    poll_s: float

    def append(self, rows: pa.RecordBatch) -> None:
        """Append rows of `REWARDS`, durable when this returns."""

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

    Notes
    -----
    Rows of one `append` are there whole or not at all. The last million rows are kept.
    """

    poll_s = 0.005

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
    return RewardLog(directory) if url is None else RewardTopic(url)

"""Where requests come from and scores go, as people write it."""

from __future__ import annotations

from pathlib import Path

from onstream.errors import JobError
from onstream.serving.scoring.work import LogWork, Work
from onstream.streams import Log

__all__ = ["open_work"]


def open_work(source: str, target: str, group: str, *, start: str, follow: bool, lease_s: float) -> Work:
    """Open requests and the place of their results.

    Parameters
    ----------
    source, target : str
        The file of an embedded log, or "kafka://host:port/topic".
    group : str
        Who has the same shares the requests.
    start : {"latest", "earliest"}
    follow : bool
        Whether to wait for more requests at the end.
    lease_s : float
        As `LogWork` says.

    Raises
    ------
    JobError
        If a place cannot be used.
    StreamError
        If a log cannot be opened.
    """
    if start not in ("latest", "earliest"):
        raise JobError(f"--start is 'latest' or 'earliest', got {start!r}")
    if not Path(source).exists():
        raise JobError(f"there is no log {source!r} to score")
    return LogWork(Log(source), Log(target), group, start=start, follow=follow, lease_s=lease_s)

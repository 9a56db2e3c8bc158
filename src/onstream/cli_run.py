"""What the command does that trains and serves at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from onstream.job import Job
from onstream.serving.beside import Beside, Status
from onstream.streams import Log
from onstream.trainer import Observer, Summary

__all__ = ["Watching", "drain_of", "train_and_serve"]

Watching = Callable[[Callable[[], Status]], AbstractContextManager[Observer]]
"""Given where the server's newest numbers are, opens the view that shows them beside those of the job."""

# That of the server, unless it is told otherwise.
_DRAIN_S = 10.0


def train_and_serve(job: Job, name: str | None, options: Sequence[str], watching: Watching) -> Summary:
    """Train a job, and serve it in a process of its own, until a signal comes.

    Parameters
    ----------
    job : Job
        If its stream is a `Log`, the server accepts examples for it.
    name : str, optional
        What requests call the model; by default the name of its directory.
    options : sequence of str
        Further options of ``onstream serve``.
    watching : callable

    Raises
    ------
    JobError
        If the server does not start; the message is what it said.
    OnstreamError
        As `Job.train` says.

    Notes
    -----
    Where the stream ends, serving goes on. When a signal comes, learning ends with a checkpoint, and then the
    server finishes what it had begun.
    """
    job = replace(
        job,
        max_wait_s=job.pace("max_wait_s", served=True),
        checkpoint_every_s=job.pace("checkpoint_every_s", served=True),
    )
    server = Beside(_command(job, name, options), drain_s=drain_of(options))
    with watching(server.status) as observer, server.running(observer.note):
        summary = job.train(observer)
        if not summary.stopped:
            observer.note("the stream ended; serving goes on until Ctrl-C")
            _wait_for_signal()
    return summary


def drain_of(options: Sequence[str]) -> float:
    """Return how long ``onstream serve`` lets requests take to finish, given its options.

    Examples
    --------
    >>> drain_of(["--threads", "2", "--drain", "60"])
    60.0
    """
    found = _DRAIN_S
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, equals, value = option.partition("=")
        if name == "--drain":
            # The server refuses what is no number.
            with suppress(ValueError):
                found = float(value if equals else following)
    return found


def _command(job: Job, name: str | None, options: Sequence[str]) -> list[str]:
    name = name or Path(job.directory).resolve().name
    logs = _log_options(name, job.stream) if isinstance(job.stream, Log) else []
    return [
        *(sys.executable, "-m", "onstream", "serve", f"{name}={job.directory}"),
        *logs,
        # Whoever lets the trainer unpickle trusts the same directory here.
        *(["--allow-pickle"] if getattr(job.learner, "allow_pickle", False) else []),
        "--beside",
        *options,
    ]


def _log_options(name: str, log: Log) -> list[str]:
    """Return the options by which the server appends to a log, and drops what is old, as the job says."""
    kept = {
        "rows": log.retention_rows,
        "bytes": log.retention_bytes,
        "s": log.retention_s,
    }
    limits = [text for unit, limit in kept.items() if limit for text in (f"--retention-{unit}", str(limit))]
    return ["--log", f"{name}={log.path}", *limits]


def _wait_for_signal() -> None:
    came = threading.Event()
    before = {n: signal.signal(n, lambda *_: came.set()) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        came.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

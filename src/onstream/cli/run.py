"""What the command does that trains and serves at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

from onstream.contracts import Stream
from onstream.errors import JobError
from onstream.job import Job
from onstream.serving.beside import Beside, Status
from onstream.serving.settings import ServerSettings
from onstream.streams import Cache, Join, Log, Sample
from onstream.trainer import Observer, Summary
from onstream.trainer.signals import stopped_by_signals

__all__ = ["Watching", "drain_of", "train_and_serve"]

Watching = Callable[[Callable[[], Status]], AbstractContextManager[Observer]]
"""Given where the server's newest numbers are, opens the view that shows them beside those of the job."""


def train_and_serve(job: Job, name: str | None, options: Sequence[str], watching: Watching) -> Summary:
    """Train a job, and serve it in a process of its own, until a signal comes.

    Parameters
    ----------
    job : Job
        If its stream is a `Log`, the server accepts examples for it, by the name of the model; if it reads several,
        as a `Join` does, by the names of their files, so that "arrivals" is the log in arrivals.db.
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
    numbers = _Numbers(server.status)
    with watching(numbers) as observer, server.running(observer.note):
        summary = job.train(observer)
        if not summary.stopped:
            observer.note("the stream ended; serving goes on until Ctrl-C")
            _wait_for_signal()
        numbers.keep()
    return summary


class _Numbers:
    """The newest numbers of a server; in the end, the last ones that it told."""

    def __init__(self, newest: Callable[[], Status]) -> None:
        self._newest = newest
        self._kept: Status | None = None

    def __call__(self) -> Status:
        return self._newest() if self._kept is None else self._kept

    def keep(self) -> None:
        self._kept = self._newest()


def drain_of(options: Sequence[str]) -> float:
    """Return how long ``onstream serve`` lets requests take to finish, given its options.

    Examples
    --------
    >>> drain_of(["--threads", "2", "--drain", "60"])
    60.0
    """
    found = ServerSettings.drain_s
    for option, following in zip(options, [*options[1:], ""], strict=False):
        name, equals, value = option.partition("=")
        if name == "--drain":
            # The server refuses what is no number.
            with suppress(ValueError):
                found = float(value if equals else following)
    return found


def _command(job: Job, name: str | None, options: Sequence[str]) -> list[str]:
    name = name or Path(job.directory).resolve().name
    logs = _log_options({name: job.stream} if isinstance(job.stream, Log) else _by_file(_logs(job.stream)))
    return [
        *(sys.executable, "-m", "onstream", "serve", f"{name}={job.directory}"),
        *logs,
        # Whoever lets the trainer unpickle trusts the same directory here.
        *(["--allow-pickle"] if getattr(job.learner, "allow_pickle", False) else []),
        "--beside",
        *options,
    ]


def _logs(stream: Stream) -> Iterator[Log]:
    """Yield the logs that a stream of streams reads."""
    if isinstance(stream, Log):
        yield stream
    elif isinstance(stream, Join):
        for inner in (stream.impressions, *(feedback.stream for feedback in stream.feedback)):
            yield from _logs(inner)
    elif isinstance(stream, Sample | Cache):
        yield from _logs(stream.stream)


def _by_file(logs: Iterable[Log]) -> dict[str, Log]:
    """Return logs by the names of their files."""
    found: dict[str, Log] = {}
    for log in logs:
        name = log.path.stem
        if name in found and found[name].path.resolve() != log.path.resolve():
            raise JobError(
                f"two logs of the job are called {name!r}, {str(found[name].path)!r} and {str(log.path)!r}: clients "
                f"name them by their files; call them differently"
            )
        found[name] = log
    return found


def _log_options(logs: Mapping[str, Log]) -> list[str]:
    """Return the options by which the server appends to logs, and drops what is old, as the job says."""
    limits = {
        tuple(
            text
            for unit, limit in (
                ("rows", log.retention_rows),
                ("bytes", log.retention_bytes),
                ("s", log.retention_s),
            )
            if limit
            for text in (f"--retention-{unit}", str(limit))
        )
        for log in logs.values()
    }
    if len(limits) > 1:
        raise JobError(
            f"the logs {', '.join(logs)} keep examples for different times; `onstream run` needs one retention for all"
        )
    named = [text for name, log in logs.items() for text in ("--log", f"{name}={log.path}")]
    return [*named, *(text for limit in limits for text in limit)]


def _wait_for_signal() -> None:
    came = threading.Event()
    with stopped_by_signals(came):
        came.wait()

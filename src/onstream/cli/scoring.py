"""The command that scores a stream."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onstream.cli.console import say
from onstream.errors import JobError
from onstream.trainer.signals import stopped_by_signals

if TYPE_CHECKING:
    from onstream.serving.scoring.scorer import Scored

__all__ = ["score"]


def score(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="The model directory.", show_default=False)],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="PLACE", help="Requests: kafka://HOST:PORT/TOPIC, or the file of a log."
        ),
    ],
    target: Annotated[
        str,
        typer.Option("--to", metavar="PLACE", help="Scores: kafka://HOST:PORT/TOPIC, or the file of a log."),
    ],
    group: Annotated[
        str, typer.Option(metavar="NAME", help="Processes of one group share the requests.")
    ] = "onstream",
    start: Annotated[
        str,
        typer.Option(metavar="latest|earliest", help="Where a group that is new begins; an old one goes on."),
    ] = "latest",
    key: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column of the requests that scores keep; may be repeated."),
    ] = None,
    tag: Annotated[
        str | None,
        typer.Option(metavar="TAG", help="Score by the version of this tag; by default the newest."),
    ] = None,
    end: Annotated[
        str | None, typer.Option(metavar="now", help="Stop once everything there is has its score.")
    ] = None,
    max_rows: Annotated[int, typer.Option(min=1, help="Score so many requests at once, at most.")] = 4096,
    lease: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", help="Logs: what a process that died had taken, others take after this."
        ),
    ] = 30.0,
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Print a line so often.")] = 5.0,
) -> None:
    """Score a stream of requests by a model that is followed as it learns. Ctrl-C or SIGTERM finishes what was begun.

    Each request has one row of scores: its keys, a column for each label, the version that made them, and why where
    there is none. With logs, and from Kafka to Kafka, it is there exactly once, whichever process dies.
    """
    from onstream.serving.replica import Replica
    from onstream.serving.scoring.places import open_work
    from onstream.serving.scoring.scorer import Scorer

    if end not in (None, "now"):
        raise JobError(f"--end can be 'now', got {end!r}")
    began = time.monotonic()

    def report(scored: Scored) -> None:
        say(_line(scored, time.monotonic() - began))

    replica = Replica(model, tag=tag, report=say)
    stop = threading.Event()
    work = open_work(source, target, group, start=start, follow=end is None, lease_s=lease, keys=key or ())
    with work, stopped_by_signals(stop) as signals:
        say(f"scoring {source} into {target} as group {group!r}")
        scorer = Scorer(
            replica, work, keys=key or (), max_rows=max_rows, report=report, note=say, report_every_s=every
        )
        scorer.run(stop)
    say("stopped" if signals else "the requests ended")


def _line(scored: Scored, seconds: float) -> str:
    parts = {
        "rows": str(scored.num_rows),
        "rows/s": f"{scored.num_rows / max(seconds, 1e-9):.0f}",
        "errors": str(scored.num_errors),
        "dropped": str(scored.num_dropped),
        "version": "-" if scored.version is None else str(scored.version),
        "lag": "unknown" if scored.behind is None else "_".join(map(str, scored.behind)),
    }
    return " ".join(f"{name}={value}" for name, value in parts.items())

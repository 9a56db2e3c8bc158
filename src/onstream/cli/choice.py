"""The command that estimates what a version would earn by its choices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from onstream.cli.console import out, say
from onstream.errors import JobError

if TYPE_CHECKING:
    from onstream.choice import Comparison

__all__ = ["estimate"]


def estimate(
    model: Annotated[Path, typer.Argument(metavar="DIR", help="The model directory.", show_default=False)],
    log: Annotated[Path, typer.Option(metavar="FILE", help="The embedded log of choices and rewards.")],
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Of the version to judge; by default the newest.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="How it would choose: greedy, uniform, thompson, epsilon=SHARE or softmax=TEMPERATURE.",
        ),
    ] = "greedy",
    label: Annotated[
        str | None, typer.Option(metavar="LABEL", help="Whose prediction is the expected reward.")
    ] = None,
    count: Annotated[
        str | None, typer.Option(metavar="ID", help="For thompson: the Id whose examples are counted.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    largest: Annotated[
        float | None, typer.Option(metavar="WEIGHT", help="Cut weights off there: less variance, some bias.")
    ] = None,
    skip_unrewarded: Annotated[
        bool, typer.Option("--skip-unrewarded", help="Leave out requests without a reward, which count as 0.")
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Read a pickled model too: who writes the checkpoints may run any code here.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate what a version would have earned by choosing for the requests of a log.

    The log tells with what probability each choice was made, so that choices of another policy can be weighed: by
    inverse propensities (ips), by those normalised (snips), and by the version's own predictions corrected (dr).
    """
    from onstream.serving.off_policy import estimate as compute

    if not log.is_file():
        raise JobError(f"there is no log {str(log)!r}")
    found = compute(
        model,
        log,
        tag=tag,
        policy=policy,
        label=label,
        count=count,
        confidence=confidence,
        largest=largest,
        missing=None if skip_unrewarded else 0.0,
        allow_pickle=allow_pickle,
    )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        _show(found, confidence)


def _show(found: Comparison, confidence: float) -> None:
    table = Table(box=None)
    for name in ("reward", "mean", f"from ({confidence:.0%})", "to", "requests", "effective"):
        table.add_column(name, justify="left" if name == "reward" else "right")
    for row in (found.logged, found.ips, found.snips, found.dr):
        numbers = (f"{row.value:.5g}", f"{row.low:.5g}", f"{row.high:.5g}")
        table.add_row(row.method, *numbers, f"{row.requests:,}", f"{row.effective:,.0f}")
    out.print(table)
    if found.unrewarded:
        say(f"{found.unrewarded:,} requests have no reward (yet)")
    if found.unsupported:
        say(
            f"{found.unsupported:.1%} of its choices could not be logged: nothing is known of them, and they count as 0"
        )

"""What a job shows while it runs: a live view on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onstream.evaluate import LabelReport
from onstream.trainer import Observer, Progress

Served: TypeAlias = Callable[[], Mapping[str, float]]

__all__ = ["LineView", "LiveView", "size_text", "watching"]

_BARS = "▁▂▃▄▅▆▇█"
# Columns that the frame of the panel and the space within it take.
_AROUND = 6

# What is shown first of a label, by task: (name in the report, title).
_SHOWN = {
    "auc": "AUC",
    "log_loss": "log loss",
    "ne": "NE",
    "calibration": "calibration",
    "accuracy": "accuracy",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
}
# The curve of a label follows the first of these that it has.
_CURVES = ("auc", "accuracy", "rmse")


@contextmanager
def watching(
    console: Console, title: str, *, every_s: float = 5.0, served: Served | None = None
) -> Iterator[Observer]:
    """Watch a job on this console: live if it is a terminal, else by a line every `every_s` seconds.

    Parameters
    ----------
    console : rich.console.Console
    title : str
    every_s : float
    served : callable, optional
        Returns the newest numbers of a server beside the job; they are shown with its own.
    """
    if not console.is_terminal:
        yield LineView(console, every_s=every_s, served=served)
        return
    view = LiveView(console, title, served=served)
    with Live(get_renderable=view.render, console=console, refresh_per_second=4):
        yield view


class LineView:
    """Print a line with the newest numbers, at most every `every_s` seconds; notes at once."""

    def __init__(self, console: Console, *, every_s: float = 5.0, served: Served | None = None) -> None:
        self._console = console
        self._served = served
        self._every_s = every_s
        self._printed = -math.inf

    def progress(self, progress: Progress) -> None:
        """Print the newest numbers, if the last line is old enough."""
        if time.monotonic() - self._printed >= self._every_s:
            self._printed = time.monotonic()
            self._print(line(progress, self._served() if self._served else None))

    def note(self, text: str) -> None:
        """Print what happened."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class LiveView:
    """Redraw one panel with everything that matters."""

    def __init__(self, console: Console, title: str, *, served: Served | None = None) -> None:
        self._console = console
        self._served = served
        self._title = title
        self._progress: Progress | None = None
        self._taken = time.monotonic()
        self._curves: dict[str, deque[float]] = {}

    def progress(self, progress: Progress) -> None:
        """Take the newest numbers."""
        self._progress, self._taken = progress, time.monotonic()
        for name, label in progress.report.labels.items():
            metric = next((m for m in _CURVES if m in label.window), None)
            if metric and math.isfinite(label.window[metric]):
                self._curves.setdefault(f"{name} {_SHOWN[metric]}", deque(maxlen=60)).append(
                    label.window[metric]
                )

    def note(self, text: str) -> None:
        """Print what happened above the panel."""
        self._console.print(text, highlight=False, markup=False)

    def render(self) -> RenderableType:
        """Return the panel as it is now."""
        progress = self._progress
        if progress is None:
            return Panel(Text("reading the first examples ..."), title=Text(self._title), border_style="cyan")
        parts: list[RenderableType] = [_facts(progress, time.monotonic() - self._taken), Text()]
        parts += [_quality(name, label) for name, label in progress.report.labels.items()]
        parts += [_curve(name, curve, self._console.width - _AROUND) for name, curve in self._curves.items()]
        if self._served is not None:
            parts += [Text(), _service(self._served())]
        parts += _waits(progress)
        return Panel(Group(*parts), title=Text(self._title, "bold"), border_style="cyan", padding=(1, 2))


def _curve(name: str, curve: deque[float], width: int) -> Text:
    """Return a curve and its newest value on one line: of the curve, as much of its end as there is room for."""
    before, after = f"  {name}  ", f"  {curve[-1]:.4f}"
    room = max(1, width - Text(before).cell_len - len(after))
    return Text.assemble((before, "dim"), (sparkline(list(curve)[-room:]), "green"), after)


def line(progress: Progress, served: Mapping[str, float] | None = None) -> str:
    """Return the newest numbers as one line of key=value pairs; those of a server beside come last."""
    parts = [f"examples={progress.examples}", f"examples/s={progress.examples_per_s:.0f}"]
    for name, label in progress.report.labels.items():
        prefix = f"{name}." if len(progress.report.labels) > 1 else ""
        parts += [f"{prefix}{key}={_number(value)}" for key, value in label.window.items() if key in _SHOWN]
        parts += [f"{prefix}gauc_{group}={_number(value)}" for group, value in label.groups.items()]
    parts.append(f"rows={sum(progress.table_rows.values())}")
    if progress.version is not None:
        parts.append(f"checkpoint={progress.version}")
    if progress.behind is not None:
        parts.append(f"lag={progress.behind[0]}_{progress.behind[1]}")
    if "join/waiting_rows" in progress.stream:
        parts.append(f"waiting={progress.stream['join/waiting_rows']:.0f}")
    if progress.rejected:
        parts.append(f"rejected={progress.rejected}")
    if progress.dropped:
        parts.append(f"dropped_batches={progress.dropped}")
    if progress.published is not None:
        parts.append(f"{progress.published.tag}={progress.published.version or '-'}")
        parts.append(f"publishing={progress.published.state}")
    parts += [f"{name}={_number(value)}" for name, value in (progress.guard or {}).items()]
    if progress.paused is not None:
        parts.append(f'paused="{progress.paused}"')
    for name, value in (served or {}).items():
        parts.append(f"served_{name}={value:.0f}" if name == "version" else f"served_{name}={value:.4g}")
    return " ".join(parts)


def sparkline(values: Sequence[float]) -> str:
    """Return a curve in one line of bars, from its lowest to its highest value."""
    low, high = min(values), max(values)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in values)


def size_text(size_bytes: float) -> str:
    """Return a number of bytes for people, such as "5.4 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def _facts(progress: Progress, since_s: float) -> Table:
    grid = Table.grid(padding=(0, 3))
    for style in ("dim", "bold", "dim", "bold"):
        grid.add_column(style=style)
    rows = f"{sum(progress.table_rows.values()):,} in {size_text(sum(progress.table_bytes.values()))}"
    lag = "-" if progress.behind is None else f"{progress.behind[0]:,} {progress.behind[1]}"
    age_s = progress.checkpoint_age_s + since_s
    checkpoint = "none yet" if progress.version is None else f"{progress.version}, {age_s:.0f} s ago"
    grid.add_row("examples", f"{progress.examples:,}", "table rows", rows)
    grid.add_row("examples/s", f"{progress.examples_per_s:,.0f}", "checkpoint", checkpoint)
    bad = f"{progress.rejected:,} rows" + (f", {progress.dropped:,} batches" if progress.dropped else "")
    grid.add_row("lag", lag, "rejected", bad)
    if progress.event_time:
        grid.add_row(
            "event time", f"{datetime.fromtimestamp(progress.event_time, UTC):%Y-%m-%d %H:%M}", "", ""
        )
    if progress.published is not None:
        version = "none" if progress.published.version is None else f"{progress.published.version}"
        grid.add_row(Text(progress.published.tag), version, "publishing", progress.published.state)
    return grid


def _service(numbers: Mapping[str, float]) -> Table:
    """Return what the server beside does, in the columns of the facts."""
    grid = Table.grid(padding=(0, 3))
    for style in ("dim", "bold", "dim", "bold"):
        grid.add_column(style=style)
    if not numbers:
        grid.add_row("served", "no numbers yet")
        return grid
    version = "none yet" if "version" not in numbers else f"{numbers['version']:.0f}"
    grid.add_row("requests/s", f"{numbers['requests_per_s']:,.0f}", "serves version", version)
    grid.add_row("latency", _range(numbers, "p50_s", "p99_s"), "rows/s", f"{numbers['rows_per_s']:,.0f}")
    fresh = _range(numbers, "freshness_p50_s", "freshness_p99_s")
    refused = numbers["refused_per_s"]
    grid.add_row("freshness", fresh, *(("refused/s", f"{refused:,.0f}") if refused else ("", "")))
    return grid


def _range(numbers: Mapping[str, float], half: str, most: str) -> str:
    """Return a median and a 99th percentile, in milliseconds."""
    if half not in numbers:
        return "-"
    return f"{numbers[half] * 1e3:,.1f} ms, p99 {numbers[most] * 1e3:,.1f} ms"


def _waits(progress: Progress) -> list[RenderableType]:
    """Return what keeps the job from learning or publishing, a line each."""
    lines = []
    if progress.paused is not None:
        lines.append(Text(f"PAUSED: {progress.paused}", "bold red"))
    if progress.published is not None and progress.published.reason:
        lines.append(Text(f"not published: {progress.published.reason}", "yellow"))
    return [Text(), *lines] if lines else []


def _quality(name: str, label: LabelReport) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    table.add_column(Text(name), style="bold")
    shown = [metric for metric in _SHOWN if metric in label.window]
    for metric in shown:
        table.add_column(_SHOWN[metric], justify="right")
    for group in label.groups:
        table.add_column(Text(f"GAUC by {group}"), justify="right")
    table.add_row(
        "window", *[_number(label.window[m]) for m in shown], *[_number(v) for v in label.groups.values()]
    )
    table.add_row("overall", *[_number(label.overall[m]) for m in shown], *["" for _ in label.groups])
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"

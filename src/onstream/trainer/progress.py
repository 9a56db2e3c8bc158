"""Where a running job stands, how it ended, and who watches it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from onstream.evaluate import Report
from onstream.trainer.publish import Published

__all__ = ["Observer", "Progress", "Summary"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running job stands.

    Attributes
    ----------
    examples : int
        Rows learned from since the stream began, runs before this one included.
    examples_per_s : float
        Since the last report.
    report : Report
    table_rows, table_bytes : dict of str to int
    version : int or None
        Newest durable checkpoint.
    checkpoint_age_s : float
        Seconds since it was taken; since the start if there is none.
    longest_pause_s : float
        The longest that learning stood still for a checkpoint in this run, in seconds. Exporting the network, once
        a run before the first checkpoint, is not counted.
    behind : tuple of (int, str), or None
        What of the stream is not learned yet, and its unit.
    event_time : int
        Newest event time learned, seconds since 1970; 0 without event times.
    rejected : int
        Bad rows since the stream began.
    dropped : int
        Batches dropped since the stream began, because loss or gradients were not finite.
    published : Published or None
        Where the tag that this job publishes to points, and why not to the newest checkpoint; None without one.
    guard : mapping of str to float, or None
        The newest values of what the guard watches, as far as it can judge them; None without a guard.
    paused : str or None
        Why learning stands still; None if it does not.
    stream : mapping of str to float
        What the stream itself reports, such as `Join`.
    """

    examples: int
    examples_per_s: float
    report: Report
    table_rows: dict[str, int]
    table_bytes: dict[str, int]
    version: int | None
    checkpoint_age_s: float
    longest_pause_s: float
    behind: tuple[int, str] | None
    event_time: int
    rejected: int
    dropped: int
    published: Published | None = None
    guard: Mapping[str, float] | None = None
    paused: str | None = None
    stream: Mapping[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Return all numbers by name, as sinks take them."""
        numbers = self.report.flat()
        numbers["examples_per_second"] = self.examples_per_s
        numbers["rejected_rows"] = self.rejected
        numbers["dropped_batches"] = self.dropped
        numbers["checkpoint/age_s"] = self.checkpoint_age_s
        numbers["checkpoint/longest_pause_s"] = self.longest_pause_s
        if self.version is not None:
            numbers["checkpoint/version"] = self.version
        if self.behind is not None:
            numbers[f"lag/{self.behind[1]}"] = self.behind[0]
        if self.published is not None:
            numbers["published/open"] = float(self.published.state == "open")
            if self.published.version is not None:
                numbers["published/version"] = self.published.version
        if self.guard is not None:
            numbers["paused"] = float(self.paused is not None)
            numbers |= {f"guard/{name}": value for name, value in self.guard.items()}
        numbers |= self.stream
        numbers |= {f"tables/{name}/rows": rows for name, rows in self.table_rows.items()}
        numbers |= {f"tables/{name}/bytes": size for name, size in self.table_bytes.items()}
        return numbers


class Observer(Protocol):
    """Who watches a job run."""

    def progress(self, progress: Progress) -> None:
        """Take the newest numbers, every `Settings.report_every_s`."""

    def note(self, text: str) -> None:
        """Take one sentence about something that happened."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes
    ----------
    progress : Progress
        At the end; its version is durable.
    resumed_from : int or None
        The version that the run went on from.
    learned : int
        Rows learned from in this run.
    seconds : float
        From when reading began until the last row was learned.
    stopped : bool
        Whether it was asked to stop before the end of the stream.
    signals : tuple of int
        The signals that asked for it.
    """

    progress: Progress
    resumed_from: int | None
    learned: int
    seconds: float
    stopped: bool
    signals: tuple[int, ...] = ()

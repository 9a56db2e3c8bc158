"""What a join counts, and what it reports of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onstream.contracts import State
from onstream.streams.join.delays import Delays
from onstream.streams.join.times import US_PER_S

__all__ = ["Counts", "Figures", "Standing"]

_QUANTILES = (0.5, 0.9, 0.99)


@dataclass
class Counts:
    """Counted of the feedback of one label, since the stream began.

    Attributes
    ----------
    rows : int
        Feedback with a key and a time.
    matched : int
        Of these, those that met their impression.
    repeated : int
        Of the matched, those of an impression that had feedback already.
    outside : int
        Met an impression of their key, but not within its window.
    late : int
        Came after the watermark had passed their time; they count all the same while their impression waits.
    dropped : int
        Of the late, those that came so late that no impression could wait for them.
    covered : int
        Impressions at the end of their life that had feedback.
    """

    rows: int = 0
    matched: int = 0
    repeated: int = 0
    outside: int = 0
    late: int = 0
    dropped: int = 0
    covered: int = 0


@dataclass
class Figures:
    """What is counted since the stream began; part of what a join remembers."""

    labels: tuple[str, ...]
    impressions: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: int = 0
    closed: int = 0
    feedback: list[Counts] = field(default_factory=list)
    delays: list[Delays] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin to count for each label."""
        self.feedback = self.feedback or [Counts() for _ in self.labels]
        self.delays = self.delays or [Delays() for _ in self.labels]

    def copy(self) -> Figures:
        """Return a copy that does not change."""
        return replace(
            self,
            feedback=[replace(counts) for counts in self.feedback],
            delays=[Delays(delays.counts) for delays in self.delays],
        )

    def state(self) -> State:
        """Return the counts."""
        arrays = {f"delays/{name}": d.counts for name, d in zip(self.labels, self.delays, strict=True)}
        names = ("impressions", "duplicates", "late", "rejected", "closed")
        facts: dict[str, Any] = {name: getattr(self, name) for name in names}
        facts["feedback"] = {
            name: asdict(counts) for name, counts in zip(self.labels, self.feedback, strict=True)
        }
        return State(arrays, facts)

    @classmethod
    def of(cls, labels: Sequence[str], state: State) -> Figures:
        """Return the counts of a state."""
        facts = dict(state.facts)
        counted = facts.pop("feedback")
        return cls(
            tuple(labels),
            **facts,
            feedback=[Counts(**counted[name]) for name in labels],
            delays=[Delays(state.arrays[f"delays/{name}"]) for name in labels],
        )


@dataclass(frozen=True)
class Standing:
    """How things stand at one moment.

    Attributes
    ----------
    waiting, waiting_feedback : int
        Rows that wait.
    memory_bytes, spilled_bytes : int
        What they take in memory, index included, and on disk.
    watermark, newest : int or None
        The watermark, and the newest event time seen, in microseconds; None before there is one.
    emitted : int
        Rows emitted.
    """

    waiting: int
    waiting_feedback: int
    memory_bytes: int
    spilled_bytes: int
    watermark: int | None
    newest: int | None
    emitted: int

    def flat(self, figures: Figures, now_s: float) -> dict[str, float]:
        """Return all numbers by name, as they are reported at a time."""
        numbers: dict[str, float] = {
            "join/waiting_rows": self.waiting,
            "join/waiting_feedback": self.waiting_feedback,
            "join/memory_bytes": self.memory_bytes,
            "join/spilled_bytes": self.spilled_bytes,
            "join/emitted_rows": self.emitted,
            "join/impressions": figures.impressions,
            "join/duplicate_impressions": figures.duplicates,
            "join/late_impressions": figures.late,
            "join/rejected_rows": figures.rejected,
        }
        if self.watermark is not None and self.newest is not None:
            numbers["join/watermark"] = self.watermark / US_PER_S
            numbers["join/watermark_lag_s"] = (self.newest - self.watermark) / US_PER_S
            numbers["join/watermark_age_s"] = now_s - self.watermark / US_PER_S
        for name, counts, delays in zip(figures.labels, figures.feedback, figures.delays, strict=True):
            numbers |= {f"join/{name}/{key}": value for key, value in _label_numbers(counts, delays).items()}
            if figures.closed:
                numbers[f"join/{name}/coverage"] = counts.covered / figures.closed
        return numbers


def _label_numbers(counts: Counts, delays: Delays) -> dict[str, float]:
    numbers: dict[str, float] = {
        "feedback": counts.rows,
        "matched": counts.matched,
        "unmatched": counts.rows - counts.matched,
        "duplicates": counts.repeated,
        "outside_window": counts.outside,
        "late": counts.late,
        "dropped": counts.dropped,
    }
    if counts.rows:
        numbers["join_rate"] = counts.matched / counts.rows
    for share in _QUANTILES:
        value = delays.quantile(share)
        if not np.isnan(value):
            numbers[f"delay_p{share * 100:g}_s"] = value
    return numbers

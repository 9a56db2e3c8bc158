"""What is due until the watermark, and the rows that it makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Array, Phase
from onstream.feedback import elapsed_column, phase_column, time_column
from onstream.streams.join.plan import LabelPlan, Stage
from onstream.streams.join.times import US_PER_S, Times, microseconds
from onstream.streams.join.waiting import FLOOR, IMPRESSION_PARTITION, POSITION, Waiting

__all__ = ["Events", "due_until", "label_names", "rows_of"]

Numbers = npt.NDArray[np.int64]

# Looking for what is due stops at about this many impressions: there may be millions at the end of a stream.
_MOST_EVENTS = 1 << 20


class Events(NamedTuple):
    """Rows that are due, in order of that.

    Attributes
    ----------
    due : ndarray of int64, shape (n,)
    numbers : ndarray of int64, shape (n,)
        Of the impressions.
    kinds : ndarray of int64, shape (n,)
        The stage of the plan; behind the stages, one kind for the corrections of each label.
    """

    due: Times
    numbers: Numbers
    kinds: npt.NDArray[np.int64]

    def part(self, rows: slice | npt.NDArray[np.bool_] | Numbers) -> Events:
        """Return some of them."""
        return Events(self.due[rows], self.numbers[rows], self.kinds[rows])

    def split(self, rows: int) -> Iterator[tuple[int, Events]]:
        """Yield parts of about `rows`, and the time up to which each goes; equal times are not parted."""
        begin = 0
        while begin < len(self.due):
            last = int(self.due[min(begin + rows, len(self.due)) - 1])
            end = int(np.searchsorted(self.due, last, "right"))
            yield last, self.part(slice(begin, end))
            begin = end


def due_until(waiting: Waiting, target: int) -> tuple[int, Events]:
    """Return what is due after `released`, up to `target` or an earlier time if it would be too much.

    Returns
    -------
    until : int
        Up to when it is all that is due.
    events : Events
    """
    until = _bounded(waiting, target)
    parts = [
        part
        for kind, stage in enumerate(waiting.plan.stages)
        for part in _of_stage(waiting, kind, stage, until)
    ]
    parts += _of_corrections(waiting, until)
    if not parts:
        return until, Events(*(np.empty(0, np.int64) for _ in range(3)))
    events = Events(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return until, events.part(np.argsort(events.due, kind="stable"))


def rows_of(waiting: Waiting, events: Events) -> list[pa.RecordBatch]:
    """Return the rows that events make: by time, then by where their impressions stood in their stream."""
    _count(waiting, events)
    labels = [_LabelColumns(waiting, i, events) for i in range(len(waiting.plan.labels))]
    said = np.zeros(len(events.due), bool)
    for label in labels:
        said |= label.concerned
    if not said.any():
        return []
    chosen = np.flatnonzero(said)
    chosen = chosen[np.argsort(events.numbers[chosen], kind="stable")]
    pieces = list(waiting.impression_pieces.take(events.numbers[chosen]))
    partitions = np.concatenate([np.asarray(batch.column(IMPRESSION_PARTITION)) for batch, _ in pieces])
    positions = np.concatenate([np.asarray(batch.column(POSITION)) for batch, _ in pieces])
    # By name: the order in which partitions came must not decide.
    ranks = np.argsort(np.argsort(np.array(waiting.partitions)))
    order = np.lexsort((events.kinds[chosen], positions, ranks[partitions], events.due[chosen]))
    made = []
    for batch, at in _in_order([batch for batch, _ in pieces], order):
        rows = chosen[at]
        columns = {
            name: column
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
            if name not in (IMPRESSION_PARTITION, POSITION, FLOOR)
        }
        for label in labels:
            columns |= label.columns(rows)
        made.append(pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)))
    return made


def _bounded(waiting: Waiting, target: int) -> int:
    """Return the latest time until which not too many impressions are due."""
    for stage in waiting.plan.stages:
        zones = sorted(
            (zone.earliest + stage.offset, zone.end - zone.first)
            for generation in waiting.impressions.generations
            for zone in generation.zones
            if not zone.done(stage.offset, waiting.released)
        )
        total = 0
        for earliest, size in zones:
            total += size
            # Before its earliest time none of a zone's rows is due.
            if total > _MOST_EVENTS and waiting.released < earliest - 1 < target:
                target = earliest - 1
                break
    return target


def _of_stage(
    waiting: Waiting, kind: int, stage: Stage, until: int
) -> Iterator[tuple[Times, Numbers, Numbers]]:
    released, offset, early = waiting.released, stage.offset, waiting.plan.early
    for generation in waiting.impressions.generations:
        for zone in generation.zones:
            if zone.done(offset, released) or zone.earliest + offset > until:
                continue
            part = slice(zone.first, zone.end)
            due = generation.columns["time"][part] + offset
            if early:
                due = np.maximum(due, generation.columns["floor"][part])
            rows = np.flatnonzero((due > released) & (due <= until))
            if len(rows):
                numbers = rows + (generation.first + zone.first)
                yield due[rows], numbers, np.full(len(rows), kind, np.int64)


def _of_corrections(waiting: Waiting, until: int) -> list[tuple[Times, Numbers, Numbers]]:
    if not waiting.corrections:
        return []
    due, numbers, labels = (np.concatenate(arrays) for arrays in zip(*waiting.corrections, strict=True))
    ahead = due > until
    waiting.corrections = [(due[ahead], numbers[ahead], labels[ahead])] if ahead.any() else []
    now = ~ahead & (due > waiting.released)
    parts = []
    for label, plan in enumerate(waiting.plan.labels):
        chosen = now & (labels == label)
        if not chosen.any():
            continue
        own = np.unique(numbers[chosen])
        own_due: Times = waiting.impressions.take(f"due{label}", own)
        # Earlier feedback may have come since, so that it is due no more.
        right = (own_due <= until) & (own_due > waiting.released)
        # What another row has told is told: the first, or the last of the window.
        if plan.policy.early_s is not None:
            right &= own_due > _due(waiting, own, microseconds(plan.policy.early_s))
        if plan.closes:
            right &= own_due <= _due(waiting, own, plan.window)
        kind = len(waiting.plan.stages) + label
        parts.append((own_due[right], own[right], np.full(np.count_nonzero(right), kind, np.int64)))
    return parts


def _due(waiting: Waiting, numbers: Numbers, offset: int) -> Times:
    """Return when rows were due at a stage."""
    due: Times = waiting.impressions.take("time", numbers) + offset
    floors: Times = waiting.impressions.take("floor", numbers)
    return np.maximum(due, floors)


def _count(waiting: Waiting, events: Events) -> None:
    """Count the impressions whose life ends."""
    ends = [i for i, stage in enumerate(waiting.plan.stages) if stage.offset == waiting.plan.life][-1]
    numbers = events.numbers[events.kinds == ends]
    waiting.figures.closed += len(numbers)
    for i, counts in enumerate(waiting.figures.feedback):
        counts.covered += int(np.count_nonzero(np.isfinite(waiting.impressions.take(f"delay{i}", numbers))))


class _LabelColumns:
    """One label of all rows, and how they stand to it.

    Attributes
    ----------
    concerned : ndarray of bool, shape (n,)
        Rows that are about the label.
    """

    def __init__(self, waiting: Waiting, label: int, events: Events) -> None:
        self._plan = waiting.plan.labels[label]
        self._waiting, self._label, self._events = waiting, label, events
        count = len(events.due)
        self.concerned = np.zeros(count, bool)
        self._known = np.zeros(count, bool)
        self._values = np.zeros(count, np.float64 if self._plan.valued else np.int8)
        self._phase = np.zeros(count, np.int8)
        self._elapsed = np.zeros(count, np.float32)
        say = {
            "asked": self._say_asked,
            "first": self._say_first,
            "final": self._say_final,
            "settled": self._say_settled,
            "unanswered": self._say_unanswered,
        }
        for kind, stage in enumerate(waiting.plan.stages):
            for about, saying in stage.says:
                if about == label and len(rows := np.flatnonzero(events.kinds == kind)):
                    say[saying](rows, events.numbers[rows])
        if len(rows := np.flatnonzero(events.kinds == len(waiting.plan.stages) + label)):
            self._say_told(rows, events.numbers[rows])

    def columns(self, rows: Numbers) -> dict[str, pa.Array]:
        """Return the columns of some rows."""
        plan, none = self._plan, ~self.concerned[rows]
        columns = {plan.name: pa.array(self._values[rows], mask=~self._known[rows])}
        if plan.policy.columns:
            begun = self._waiting.impressions.take("time", self._events.numbers[rows]) / US_PER_S
            columns[phase_column(plan.name)] = pa.array(self._phase[rows], mask=none)
            columns[elapsed_column(plan.name)] = pa.array(self._elapsed[rows], mask=none)
            columns[time_column(plan.name)] = pa.array(begun, mask=none)
        return columns

    def _say_asked(self, rows: Numbers, numbers: Numbers) -> None:
        chosen = self._take("asked", numbers)
        self._say(rows[chosen], None, Phase.ASKED, 0.0)

    def _say_first(self, rows: Numbers, numbers: Numbers) -> None:
        there = self._take("due", numbers) <= self._events.due[rows]
        elapsed = np.where(there, self._delays(numbers), self._plan.policy.early_s or 0.0)
        self._say(rows, there, np.where(there, Phase.FINAL, Phase.EARLY), elapsed)

    def _say_final(self, rows: Numbers, numbers: Numbers) -> None:
        delays = self._delays(numbers)
        there = np.isfinite(delays)
        elapsed = np.where(there, delays, self._plan.window / US_PER_S)
        if not self._plan.valued:
            self._say(rows, there, Phase.FINAL, elapsed)
            return
        default = self._plan.default
        values = np.where(there, self._take("value", numbers), 0.0 if default is None else default)
        self._say(rows, values, Phase.FINAL, elapsed)
        self._known[rows] = there | (default is not None)

    def _say_settled(self, rows: Numbers, numbers: Numbers) -> None:
        rows = rows[self._take("due", numbers) > self._events.due[rows]]
        self._say(rows, np.zeros(len(rows), bool), Phase.CORRECTION, self._plan.window / US_PER_S)

    def _say_unanswered(self, rows: Numbers, numbers: Numbers) -> None:
        rows = rows[self._take("due", numbers) > self._events.due[rows]]
        self._say(rows, self._plan.default or 0.0, Phase.FINAL, self._plan.window / US_PER_S)
        self._known[rows] = self._plan.default is not None

    def _say_told(self, rows: Numbers, numbers: Numbers) -> None:
        at_feedback = self._plan.policy.at_feedback
        values = self._take("value", numbers) if at_feedback else np.ones(len(rows), bool)
        self._say(rows, values, Phase.FINAL if at_feedback else Phase.CORRECTION, self._delays(numbers))

    def _say(
        self, rows: Numbers, values: Array | float | None, phase: Array | int, elapsed: Array | float
    ) -> None:
        self.concerned[rows] = True
        self._phase[rows] = phase
        self._elapsed[rows] = elapsed
        if values is not None:
            self._known[rows] = True
            self._values[rows] = values

    def _delays(self, numbers: Numbers) -> Array:
        delays: Array = self._take("delay", numbers)
        return delays

    def _take(self, name: str, numbers: Numbers) -> Array:
        return self._waiting.impressions.take(f"{name}{self._label}", numbers)


def _in_order(batches: Sequence[pa.RecordBatch], order: Numbers) -> Iterator[tuple[pa.RecordBatch, Numbers]]:
    """Yield the rows of batches in another order, and their places; neighbours of one schema come together."""
    if all(batch.schema.equals(batches[0].schema) for batch in batches[1:]):
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        yield (whole if bool((order[1:] > order[:-1]).all()) else whole.take(pa.array(order))), order
        return
    owner = np.repeat(np.arange(len(batches)), [batch.num_rows for batch in batches])
    begins = np.concatenate([[0], np.cumsum([batch.num_rows for batch in batches])])
    kinds = [next(i for i, b in enumerate(batches) if b.schema.equals(batch.schema)) for batch in batches]
    runs = np.flatnonzero(np.diff(np.array(kinds)[owner[order]])) + 1
    for run in np.split(order, runs):
        rows = [batches[owner[at]].slice(int(at - begins[owner[at]]), 1) for at in run]
        yield pa.concat_batches(rows), run


def label_names(plan: LabelPlan) -> list[str]:
    """Return the columns that a label adds."""
    if not plan.policy.columns:
        return [plan.name]
    return [plan.name, phase_column(plan.name), elapsed_column(plan.name), time_column(plan.name)]

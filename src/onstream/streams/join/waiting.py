"""Impressions that wait for feedback, and feedback that waits for impressions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Array
from onstream.streams.join.figures import Figures
from onstream.streams.join.keys import JoinKeys, first_of_each
from onstream.streams.join.pieces import Memory, Pieces
from onstream.streams.join.plan import Plan
from onstream.streams.join.rows import Column, Rows
from onstream.streams.join.times import FOREVER, NEVER, US_PER_S, Times

__all__ = ["FLOOR", "IMPRESSION_PARTITION", "POSITION", "Waiting"]

Numbers = npt.NDArray[np.int64]

# Columns that are kept with an impression: where it stood in its stream, and the watermark when it came.
IMPRESSION_PARTITION = "onstream.partition"
POSITION = "onstream.position"
FLOOR = "onstream.floor"

# Of the record batches that keep feedback.
_FEEDBACK = pa.schema(
    [
        ("hash", pa.uint64()),
        ("check", pa.uint32()),
        ("time", pa.int64()),
        ("label", pa.uint8()),
        ("value", pa.float64()),
        ("floor", pa.int64()),
    ]
)


class Waiting:
    """What a join remembers: impressions whose life is not over, and feedback that may belong to such.

    Parameters
    ----------
    plan : Plan
    lateness : int
        In microseconds: how much older than its impression feedback may be, since clocks differ.
    memory : Memory
    figures : Figures
        Counted into.

    Attributes
    ----------
    watermark : int
        Event time up to which everything should have come.
    released : int
        Event time up to which rows were emitted. What is due at or before it is done.

    partitions : list of str
        Of the impressions, by number.

    Notes
    -----
    An impression gets all feedback of its key whose time lies between `lateness` before its own and the label's
    window after it, in whatever order they come. Nothing is ever marked as done: what is done follows from
    `released`. So all that is remembered only grows and is dropped from its old end, and a capture of it is a
    list of what there is.
    """

    def __init__(self, plan: Plan, lateness: int, memory: Memory, figures: Figures) -> None:
        self.plan = plan
        self.figures = figures
        self.watermark = NEVER
        self.released = NEVER
        self.partitions: list[str] = []
        self._memory = memory
        self.impression_pieces = Pieces(memory)
        self.feedback_pieces = Pieces(memory)
        self.clear()
        self._lateness = lateness
        self._windows = np.array([label.window for label in plan.labels], np.int64)

    def clear(self) -> None:
        """Forget all rows."""
        self.impressions = Rows(_impression_columns(self.plan))
        self.feedback = Rows(
            {
                "label": Column(np.uint8),
                "value": Column(np.float64),
                "since": Column(np.int64),
                "next": Column(np.int64),
                "matched": Column(np.bool_),
            }
        )
        self.impression_pieces.clear()
        self.feedback_pieces.clear()
        # Feedback that makes a row of its own: (due, number of the impression, label).
        self.corrections: list[tuple[Times, Numbers, npt.NDArray[np.int64]]] = []

    def add_impressions(
        self,
        batch: pa.RecordBatch,
        keys: JoinKeys,
        times: Times,
        asked: dict[int, npt.NDArray[np.bool_]],
        partition: int,
        positions: Numbers,
    ) -> None:
        """Take in impressions of one partition.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
        keys, times
            Of its rows.
        asked : dict of int to ndarray of bool, shape (rows,)
            For each label that is asked for at once, of which impressions.
        partition : int
            Number of the partition.
        positions : ndarray of int64, shape (rows,)
        """
        figures = self.figures
        figures.impressions += len(times)
        late = times + self.plan.life <= self.watermark
        kept = ~late
        kept[kept] = self._is_new(keys.take(kept))
        figures.late += int(np.count_nonzero(late))
        figures.duplicates += int(np.count_nonzero(~kept & ~late))
        if not kept.all():
            batch = batch.filter(pa.array(kept))
            keys, times, positions = keys.take(kept), times[kept], positions[kept]
            asked = {label: chosen[kept] for label, chosen in asked.items()}
        if not len(times):
            return
        floors = np.full(len(times), self.watermark + 1, np.int64)
        places = {IMPRESSION_PARTITION: np.full(len(times), partition, np.int32), POSITION: positions}
        if self.plan.early:
            places[FLOOR] = floors
        self.impression_pieces.append(
            pa.RecordBatch.from_arrays(
                [*batch.columns, *(pa.array(values) for values in places.values())],
                names=[*batch.schema.names, *places],
            ),
            int(times.max()) + self.plan.life,
        )
        numbers = self.restore_impressions(keys, times, asked, floors)
        if self.feedback.generations:
            self._apply(*self._waiting_feedback(keys, numbers))

    def restore_impressions(
        self, keys: JoinKeys, times: Times, asked: dict[int, npt.NDArray[np.bool_]], floors: Times
    ) -> Numbers:
        """Take in impressions that are kept in pieces already; return their numbers."""
        values: dict[str, Array] = {f"asked{label}": chosen for label, chosen in asked.items()}
        if self.plan.early:
            values["floor"] = floors
        numbers = self.impressions.append(keys, times, **values)
        self.impressions.put(numbers)
        self._weigh()
        return numbers

    def add_feedback(self, label: int, keys: JoinKeys, times: Times, values: npt.NDArray[np.float64]) -> None:
        """Take in feedback of one label."""
        counts = self.figures.feedback[label]
        counts.rows += len(times)
        counts.late += int(np.count_nonzero(times <= self.watermark))
        kept = times + (self._lateness + self.plan.life) > self.watermark
        if not kept.all():
            counts.dropped += int(np.count_nonzero(~kept))
            keys, times, values = keys.take(kept), times[kept], values[kept]
        if not len(times):
            return
        labels = np.full(len(times), label, np.uint8)
        floors = np.full(len(times), self.watermark + 1, np.int64)
        columns = [*keys, times, labels, values, floors]
        self.feedback_pieces.append(
            pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=_FEEDBACK),
            int(times.max()) + self._lateness + self.plan.life,
        )
        self._meet(keys, times, labels, values, floors)

    def restore_feedback(self, batch: pa.RecordBatch) -> None:
        """Take in feedback that is kept in pieces already; nothing is counted."""
        hashes, checks, times, labels, values, floors = (np.asarray(column) for column in batch.columns)
        counted, self.figures = self.figures, Figures(self.figures.labels)
        self._meet(JoinKeys(hashes, checks), times, labels, values, floors)
        # It was counted when it came.
        self.figures = counted

    def forget(self) -> None:
        """Drop what was released."""
        life = self.plan.life
        self.impressions.forget(self.released - life)
        self.impression_pieces.forget(self.released)
        self.feedback.forget(self.released - life - self._lateness)
        self.feedback_pieces.forget(self.released)
        self._weigh()

    def _weigh(self) -> None:
        self._memory.index_bytes = self.impressions.size_bytes + self.feedback.size_bytes

    def _is_new(self, keys: JoinKeys) -> npt.NDArray[np.bool_]:
        """Return which keys are the first of their kind, and of no impression that waits."""
        found = self.impressions.find(keys)
        there = np.flatnonzero(found >= 0)
        times = self.impressions.take("time", found[there])
        waits = np.zeros(len(found), bool)
        waits[there] = times + self.plan.life > self.watermark
        return ~waits & first_of_each(keys)

    def _meet(
        self,
        keys: JoinKeys,
        times: Times,
        labels: npt.NDArray[np.uint8],
        values: npt.NDArray[np.float64],
        floors: Times,
    ) -> None:
        """Remember feedback, and bring it to the impressions that wait for it."""
        numbers = np.arange(self.feedback.end, self.feedback.end + len(times), dtype=np.int64)
        # Rows of one key are a chain, from the newest to the oldest.
        order = np.lexsort((keys.checks, keys.hashes))
        sorted_keys = keys.take(order)
        repeats = np.zeros(len(order), bool)
        repeats[1:] = (sorted_keys.hashes[1:] == sorted_keys.hashes[:-1]) & (
            sorted_keys.checks[1:] == sorted_keys.checks[:-1]
        )
        older = self.feedback.find(keys)
        older[order[repeats]] = numbers[order[np.flatnonzero(repeats) - 1]]
        self.feedback.append(
            keys,
            times,
            label=labels,
            value=values,
            since=floors,
            next=older,
            matched=np.zeros(len(times), bool),
        )
        is_last = np.append(~repeats[1:], True)
        self.feedback.put(numbers[order[is_last]])
        self._weigh()
        found = self.impressions.find(keys)
        there = found >= 0
        if there.any():
            self._apply(found[there], numbers[there])

    def _waiting_feedback(self, keys: JoinKeys, numbers: Numbers) -> tuple[Numbers, Numbers]:
        """Return the pairs of these impressions and feedback of their keys."""
        impressions, feedback = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        at = self.feedback.find(keys)
        while len(at):
            there = at >= self.feedback.first
            numbers, at = numbers[there], at[there]
            impressions.append(numbers)
            feedback.append(at)
            at = self.feedback.take("next", at)
        found, chained = np.concatenate(impressions), np.concatenate(feedback)
        # In the order in which it came, so that sums do not depend on who waited for whom.
        order = np.argsort(chained, kind="stable")
        return found[order], chained[order]

    def _apply(self, impressions: Numbers, feedback: Numbers) -> None:
        """Give feedback to impressions, pair by pair."""
        if not len(feedback):
            return
        times = self.feedback.take("time", feedback)
        labels = self.feedback.take("label", feedback).astype(np.int64)
        begins = self.impressions.take("time", impressions)
        waits = begins + self.plan.life > self.watermark
        delays = times - begins
        within = (delays >= -self._lateness) & (delays <= self._windows[labels])
        for label in range(len(self.plan.labels)):
            about = (labels == label) & waits
            self.figures.feedback[label].outside += int(np.count_nonzero(about & ~within))
            chosen = np.flatnonzero(about & within)
            if len(chosen):
                self._label(label, impressions[chosen], feedback[chosen], times[chosen], delays[chosen])

    def _label(
        self, label: int, impressions: Numbers, feedback: Numbers, times: Times, delays: Times
    ) -> None:
        """Give feedback of one label to impressions within whose window it is."""
        plan, counts = self.plan.labels[label], self.figures.feedback[label]
        fresh = feedback[~self.feedback.take("matched", feedback)]
        counts.matched += len(fresh)
        for generation, rows, _ in self.feedback.split(fresh):
            generation.columns["matched"][rows] = True
        values = self.feedback.take("value", feedback) if plan.valued else None
        floors = self.feedback.take("since", feedback) if self.plan.early else None
        for generation, rows, at in self.impressions.split(impressions):
            columns = generation.columns
            shortest = columns[f"delay{label}"]
            uncovered = np.unique(rows[np.isinf(shortest[rows])])
            np.minimum.at(shortest, rows, (delays[at] / US_PER_S).astype(np.float32))
            counts.repeated += len(rows) - len(uncovered)
            self.figures.delays[label].add(shortest[uncovered].astype(np.float64))
            if values is not None:
                _choose(
                    plan.choose, columns[f"at{label}"], columns[f"value{label}"], rows, times[at], values[at]
                )
            if floors is not None and f"due{label}" in columns:
                # Feedback that seems older than its impression is known when that comes.
                known = np.maximum(times[at], columns["time"][rows])
                due = np.maximum(np.maximum(known, floors[at]), columns["floor"][rows])
                self._note_due(label, columns[f"due{label}"], rows, due, generation.first)

    def _note_due(self, label: int, column: Times, rows: Numbers, due: Times, first: int) -> None:
        """Remember when an impression's feedback counts first, and that a row may be due then."""
        np.minimum.at(column, rows, due)
        if self.plan.labels[label].told_at_once:
            new = np.unique(rows[(due == column[rows]) & (due > self.released)])
            if len(new):
                self.corrections.append((column[new], new + first, np.full(len(new), label, np.int64)))


def _impression_columns(plan: Plan) -> dict[str, Column]:
    columns = {"floor": Column(np.int64)} if plan.early else {}
    for i, label in enumerate(plan.labels):
        columns[f"delay{i}"] = Column(np.float32, np.inf)
        if label.valued:
            columns[f"at{i}"] = Column(np.int64, FOREVER if label.choose == "first" else NEVER)
            columns[f"value{i}"] = Column(np.float64, -np.inf if label.choose == "max" else 0)
        if label.early:
            columns[f"due{i}"] = Column(np.int64, FOREVER)
    for i in plan.asked:
        columns[f"asked{i}"] = Column(np.bool_)
    return columns


def _choose(
    choice: str,
    chosen_times: Times,
    chosen_values: npt.NDArray[np.float64],
    rows: Numbers,
    times: Times,
    values: npt.NDArray[np.float64],
) -> None:
    """Take values into those that rows have; the result does not depend on the order in which they come."""
    if choice == "sum":
        np.add.at(chosen_values, rows, values)
        return
    if choice == "max":
        np.maximum.at(chosen_values, rows, values)
        return
    # Of equal times, the smallest value is the first and the largest the last.
    order = np.lexsort((values, times, rows))
    edge = np.append(rows[order][1:] != rows[order][:-1], True)
    if choice == "first":
        edge = np.append(True, edge[:-1])
    best = order[edge]
    at, time, value = rows[best], times[best], values[best]
    tie = time == chosen_times[at]
    if choice == "first":
        better = (time < chosen_times[at]) | (tie & (value < chosen_values[at]))
    else:
        better = (time > chosen_times[at]) | (tie & (value > chosen_values[at]))
    chosen_times[at[better]] = time[better]
    chosen_values[at[better]] = value[better]

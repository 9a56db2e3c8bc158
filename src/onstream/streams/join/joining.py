"""One reading of a join: what it remembers, and what it does with what comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Chunk, Positions, Reject, State
from onstream.errors import CheckpointError, ColumnError, JobError
from onstream.feedback import chosen
from onstream.streams.chunks import positions_after, row_ends
from onstream.streams.join.capture import FIGURES, JOIN, JoinCapture, stored_pieces
from onstream.streams.join.emission import due_until, label_names, rows_of
from onstream.streams.join.figures import Figures, Standing
from onstream.streams.join.keys import JoinKeys, read_keys
from onstream.streams.join.pieces import Memory
from onstream.streams.join.plan import Plan
from onstream.streams.join.times import FOREVER, NEVER, Times, Unit, read_times
from onstream.streams.join.waiting import FLOOR, Waiting
from onstream.streams.join.watermarks import InputTime, watermark
from onstream.streams.pace import Clock

__all__ = ["PARTITION", "InputRules", "Joining", "Rules"]

PARTITION = "join"

_VALUE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class InputRules:
    """How rows of one input are read. The name stands before that of a partition where rows are told apart."""

    name: str
    on: str
    time: str
    unit: Unit
    value: str | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What a join goes by; the first input has the impressions. Durations are in microseconds but for `idle_s`."""

    inputs: tuple[InputRules, ...]
    plan: Plan
    lateness: int
    idle_s: float
    future: int | None

    def describe(self) -> list[Any]:
        """Return what must not change while rows wait, as JSON values."""
        first = self.inputs[0]
        return [first.on, first.time, first.unit, *self.plan.describe()]


@dataclass
class _Read:
    """Rows of a chunk that have a key and a time."""

    batch: pa.RecordBatch
    keys: JoinKeys
    times: Times
    positions: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | None
    rejects: list[Reject] = field(default_factory=list)


class Joining:
    """What a join remembers while it is read, and what it does with what comes.

    Parameters
    ----------
    rules : Rules
    inputs : sequence of InputTime
    memory : Memory
    clock : Clock

    Attributes
    ----------
    positions : list of Positions
        How far each input was read.
    emitted : int
        Rows given so far; the position of the join.
    """

    def __init__(self, rules: Rules, inputs: Sequence[InputTime], memory: Memory, clock: Clock) -> None:
        self.rules = rules
        self.inputs = list(inputs)
        self.positions: list[Positions] = [{} for _ in inputs]
        self.emitted = 0
        self._memory = memory
        self._clock = clock
        self._skip = 0
        self._newest = NEVER
        self._target = NEVER
        labels = tuple(label.name for label in rules.plan.labels)
        self._waiting = Waiting(rules.plan, rules.lateness, memory, Figures(labels))
        self._label_names = {name for label in rules.plan.labels for name in label_names(label)}

    # ---------------------------------------------------------------------------------------- what comes

    def take(self, index: int, chunk: Chunk) -> list[Reject]:
        """Take in a chunk of one input, and return what of it cannot be used."""
        source = self.rules.inputs[index]
        rejects = [
            Reject(f"{source.name}/{r.partition}", r.position, r.reason, r.value) for r in chunk.rejects
        ]
        newest = NEVER
        if chunk.batch.num_rows:
            read = self._read(source, chunk, self.positions[index].get(chunk.partition, 0))
            rejects += read.rejects
            if len(read.times):
                newest = int(read.times.max())
                if index == 0:
                    self._take_impressions(read, chunk.partition)
                else:
                    values = np.zeros(len(read.times)) if read.values is None else read.values
                    self._waiting.add_feedback(index - 1, read.keys, read.times, values)
        self._waiting.figures.rejected += len(rejects)
        self._newest = max(self._newest, newest)
        self.inputs[index].see(chunk.partition, newest, self._clock.time())
        self.positions[index] |= positions_after(chunk)
        return rejects

    def _take_impressions(self, read: _Read, partition: str) -> None:
        taken = sorted(self._label_names.intersection(read.batch.schema.names))
        if taken:
            raise ColumnError(
                f"the impressions have a column {taken[0]!r}, which the join would add; give the label another name"
            )
        known = self._waiting.partitions
        if partition not in known:
            known.append(partition)
        self._waiting.add_impressions(
            read.batch, read.keys, read.times, self._asked(read.batch), known.index(partition), read.positions
        )

    def _asked(self, batch: pa.RecordBatch) -> dict[int, npt.NDArray[np.bool_]]:
        """Return, for each label that is asked for at once, of which impressions."""
        plan, names = self.rules.plan, batch.column(self.rules.inputs[0].on)
        return {i: chosen(names, plan.labels[i].policy.measured_share) for i in plan.asked}

    def _read(self, source: InputRules, chunk: Chunk, before: int) -> _Read:
        """Read key, time and value of a chunk's rows."""
        batch, ends = chunk.batch, row_ends(chunk)
        bad: dict[int, tuple[str, str]] = {}
        rows = batch.num_rows
        keys = JoinKeys(np.zeros(rows, np.uint64), np.zeros(rows, np.uint32))
        times = np.zeros(rows, np.int64)
        values = None
        try:
            keys, faults = read_keys(_column(batch, source.on))
            _blame(bad, faults, batch, source.on, "no key that can be joined")
            times, faults = read_times(_column(batch, source.time), source.unit)
            _blame(bad, faults, batch, source.time, "no event time")
            if self.rules.future is not None:
                limit = int(self._clock.time() * 1e6) + self.rules.future
                _blame(bad, times > limit, batch, source.time, "in the future")
            if source.value is not None:
                values = _numbers(_column(batch, source.value), source.value)
                _blame(bad, ~np.isfinite(values), batch, source.value, "no finite number")
        except ColumnError as error:
            bad = {row: (str(error), "") for row in range(rows)}
        if not bad:
            return _Read(batch, keys, times, ends, values)
        starts = np.concatenate([[before if chunk.ends is not None else int(ends[0]) - 1], ends[:-1]])
        partition = f"{source.name}/{chunk.partition}"
        rejects = [
            Reject(partition, int(starts[row]), reason, value) for row, (reason, value) in sorted(bad.items())
        ]
        good = np.ones(rows, bool)
        good[list(bad)] = False
        return _Read(
            batch.filter(pa.array(good)),
            keys.take(good),
            times[good],
            ends[good],
            None if values is None else values[good],
            rejects,
        )

    # --------------------------------------------------------------------------------- what is due

    def level(self) -> int | None:
        """Return the event time that all inputs have come to; None if that cannot be said."""
        mark = watermark(self.inputs, self._clock.time(), self.rules.idle_s, self.rules.lateness)
        return None if mark is None else mark + self.rules.lateness

    def advance(self, max_rows: int) -> Iterator[Chunk]:
        """Move the watermark on, and give the rows that are due."""
        mark = watermark(self.inputs, self._clock.time(), self.rules.idle_s, self.rules.lateness)
        if mark is not None:
            self._waiting.watermark = max(self._waiting.watermark, mark)
        yield from self._release(self._waiting.watermark, max_rows)

    def finish(self, max_rows: int) -> Iterator[Chunk]:
        """Give the rows of all that waits: nothing more will come."""
        yield from self._release(FOREVER, max_rows)
        self._waiting.clear()
        # Should the inputs go on one day, what is new is judged by what was seen, not by this end.
        self._waiting.released = self._target = self._waiting.watermark

    def resume(self, max_rows: int) -> Iterator[Chunk]:
        """Give again the rows that were being given when what was loaded was captured."""
        if self._target == FOREVER:
            yield from self.finish(max_rows)
        else:
            yield from self._release(self._target, max_rows)
        if self._skip:
            raise CheckpointError(
                f"the checkpoint tells of {self._skip} joined rows that cannot be made again; the join's inputs or "
                f"settings are others than they were"
            )

    def _release(self, target: int, max_rows: int) -> Iterator[Chunk]:
        waiting = self._waiting
        self._target = max(target, waiting.released)
        while waiting.released < target:
            until, events = due_until(waiting, target)
            for last, part in events.split(max_rows):
                capture = self.capture()
                for batch in rows_of(waiting, part):
                    yield from self._chunks(batch, capture, max_rows)
                waiting.released = last
            waiting.released = until
            waiting.forget()

    def _chunks(self, batch: pa.RecordBatch, capture: JoinCapture, max_rows: int) -> Iterator[Chunk]:
        """Give rows, but for those that were given before what was loaded was captured."""
        skipped = min(self._skip, batch.num_rows)
        self._skip -= skipped
        self.emitted += skipped
        for first in range(skipped, batch.num_rows, max_rows):
            part = batch.slice(first, max_rows)
            self.emitted += part.num_rows
            yield Chunk(part, PARTITION, self.emitted, state=capture)

    # ------------------------------------------------------------------------------- what is remembered

    def capture(self) -> JoinCapture:
        """Return all that is remembered, as it is now."""
        waiting, memory = self._waiting, self._memory
        known = waiting.watermark != NEVER
        return JoinCapture(
            facts={
                "rules": self.rules.describe(),
                "inputs": [rules.name for rules in self.rules.inputs],
                "positions": [dict(positions) for positions in self.positions],
                "times": [each.facts() for each in self.inputs],
                "partitions": list(waiting.partitions),
                "watermark": waiting.watermark,
                "released": waiting.released,
                "target": self._target,
                "newest": self._newest,
                "emitted": self.emitted,
            },
            pieces={
                "impressions": tuple(waiting.impression_pieces.pieces),
                "feedback": tuple(waiting.feedback_pieces.pieces),
            },
            counts=waiting.figures.copy(),
            standing=Standing(
                waiting=max(
                    0, waiting.figures.impressions - waiting.figures.duplicates - waiting.figures.late
                )
                - waiting.figures.closed,
                waiting_feedback=sum(p.batch.num_rows for p in waiting.feedback_pieces.pieces),
                memory_bytes=memory.used_bytes + memory.index_bytes,
                spilled_bytes=memory.spilled_bytes,
                watermark=waiting.watermark if known else None,
                newest=self._newest if known else None,
                emitted=self.emitted,
            ),
            clock=self._clock,
        )

    def load(self, states: Mapping[str, State], position: int) -> None:
        """Go on from what `capture` gave, after the row before `position`."""
        facts = states[JOIN].facts
        if facts["rules"] != _plain(self.rules.describe()):
            raise JobError(
                f"the checkpoint was made by a join of {facts['rules']}, this one is of {self.rules.describe()}; "
                f"while rows wait, its columns, labels, windows and policies must stay: begin in another directory"
            )
        if facts["inputs"] != [rules.name for rules in self.rules.inputs]:
            raise JobError(
                f"the checkpoint was made by a join of {facts['inputs']}; begin in another directory"
            )
        waiting, now = self._waiting, self._clock.time()
        self.positions = [dict(positions) for positions in facts["positions"]]
        for each, newest in zip(self.inputs, facts["times"], strict=True):
            each.load(newest, now)
        waiting.partitions = list(facts["partitions"])
        waiting.figures = Figures.of([label.name for label in self.rules.plan.labels], states[FIGURES])
        waiting.released = facts["released"]
        # What came since the last release has met impressions that are due now, and must meet them again.
        waiting.watermark = min(facts["released"], facts["watermark"])
        for batch in stored_pieces(states, "impressions", waiting.impression_pieces, facts):
            self._restore_impressions(batch)
        for batch in stored_pieces(states, "feedback", waiting.feedback_pieces, facts):
            waiting.restore_feedback(batch)
        waiting.watermark = facts["watermark"]
        self._target, self._newest, self.emitted = facts["target"], facts["newest"], facts["emitted"]
        self._skip = position - self.emitted
        if self._skip < 0:
            raise CheckpointError(
                f"the checkpoint stands at row {position} of the join, and its state after it"
            )

    def _restore_impressions(self, batch: pa.RecordBatch) -> None:
        first = self.rules.inputs[0]
        keys, _ = read_keys(batch.column(first.on))
        times, _ = read_times(batch.column(first.time), first.unit)
        early = self.rules.plan.early
        floors = np.asarray(batch.column(FLOOR)) if early else np.zeros(len(times), np.int64)
        self._waiting.restore_impressions(keys, times, self._asked(batch), floors)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    found = batch.schema.get_all_field_indices(name)
    if len(found) != 1:
        raise ColumnError(
            f"column {name!r}: there are several of this name" if found else f"missing column {name!r}"
        )
    return batch.column(found[0])


def _numbers(column: pa.Array, name: str) -> npt.NDArray[np.float64]:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ColumnError(f"column {name!r}: {kind} cannot be the value of a label; expected numbers")
    numbers = column.cast(pa.float64(), safe=False)
    return np.asarray(pc.fill_null(numbers, np.nan))


def _blame(
    bad: dict[int, tuple[str, str]],
    faults: npt.NDArray[np.bool_] | None,
    batch: pa.RecordBatch,
    name: str,
    why: str,
) -> None:
    """Note rows with a fault; the first fault of a row counts."""
    if faults is None or not faults.any():
        return
    column = batch.column(name)
    for row in np.flatnonzero(faults).tolist():
        bad.setdefault(row, (f"column {name!r}: {why}", str(column[row])[:_VALUE_LENGTH]))


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value

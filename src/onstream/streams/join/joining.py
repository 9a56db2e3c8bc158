"""One reading of a join: what it remembers, and what it does with what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Chunk, Positions, Reject, State
from onstream.errors import CheckpointError, ColumnError
from onstream.feedback import chosen
from onstream.streams.chunks import positions_after
from onstream.streams.join.capture import FIGURES, JOIN, JoinCapture, stored_pieces
from onstream.streams.join.emission import due_until, label_names, rows_of
from onstream.streams.join.figures import Figures, Standing
from onstream.streams.join.keys import read_keys
from onstream.streams.join.pieces import Memory
from onstream.streams.join.reading import ReadRows, read_rows
from onstream.streams.join.rules import Rules, check_same_rules
from onstream.streams.join.times import FOREVER, NEVER, read_times
from onstream.streams.join.waiting import FLOOR, Waiting
from onstream.streams.join.watermarks import InputTime, watermark
from onstream.streams.pace import Clock

__all__ = ["PARTITION", "Joining", "Rules"]

PARTITION = "join"

# Of so many of the newest captures it is known how far the inputs were read: more than run ahead of the learner.
_READS = 1000


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
        self._described = rules.describe()
        self.inputs = list(inputs)
        self.positions: list[Positions] = [{} for _ in inputs]
        self.emitted = 0
        self._memory = memory
        self._clock = clock
        self._skip = 0
        self._newest = NEVER
        self._target = NEVER
        # How far the inputs were read when so many rows had been given.
        self._reads: deque[tuple[int, list[Positions]]] = deque(maxlen=_READS)
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
            future = self.rules.future
            latest = None if future is None else int(self._clock.time() * 1e6) + future
            read = read_rows(source, chunk, self.positions[index].get(chunk.partition, 0), latest)
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

    def _take_impressions(self, read: ReadRows, partition: str) -> None:
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

    def read_before(self, position: int) -> list[Positions] | None:
        """Return how far each input was read when rows from here on had not been made; None if it is not known."""
        known = [positions for emitted, positions in tuple(self._reads) if emitted < position]
        return known[-1] if known else None

    def capture(self) -> JoinCapture:
        """Return all that is remembered, as it is now."""
        waiting, memory = self._waiting, self._memory
        positions = [dict(positions) for positions in self.positions]
        self._reads.append((self.emitted, positions))
        known = waiting.watermark != NEVER
        return JoinCapture(
            facts={
                "rules": self._described,
                "positions": positions,
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
        check_same_rules(facts["rules"], self._described)
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

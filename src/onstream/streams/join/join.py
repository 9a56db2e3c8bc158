"""The event-time join: impressions and their feedback, from separate streams, as labelled examples."""

from __future__ import annotations

import copy
import os
import tempfile
import threading
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from onstream.contracts import (
    Chunk,
    Keeping,
    Positions,
    Reject,
    State,
    Stream,
    is_shared,
    peeked,
    placed,
    selected,
    take_notes,
    takes_turns,
)
from onstream.errors import CheckpointError, JobError
from onstream.feedback import Policy, elapsed_column, phase_column, seconds, time_column
from onstream.streams.ahead import END
from onstream.streams.chunks import NO_COLUMNS, no_rows
from onstream.streams.join.capture import JOIN
from onstream.streams.join.declarations import Feedback
from onstream.streams.join.emission import label_names
from onstream.streams.join.inputs import Inputs
from onstream.streams.join.joining import PARTITION, Joining, Rules
from onstream.streams.join.pieces import Memory
from onstream.streams.join.plan import Plan
from onstream.streams.join.reading import InputRules
from onstream.streams.join.sizes import size_bytes
from onstream.streams.join.times import Unit, microseconds
from onstream.streams.join.watermarks import InputTime, wanted
from onstream.streams.pace import SYSTEM_CLOCK, Clock

__all__ = ["Join"]

_IMPRESSIONS = "impressions"

# How often a silent join looks whether a partition has become idle, or it was told to stop.
_POLL_S = 0.05

# After so many small chunks that made no row, what is remembered is given to checkpoints all the same.
_UNSAID_CHUNKS = 64


class Join:
    """Join impressions with the feedback that comes later: one stream of labelled examples.

    Parameters
    ----------
    impressions : Stream
        What was shown, with the features as they were then.
    feedback : Stream, or sequence of Feedback
        What came of it; one stream for the one label `label`, or a `Feedback` for each label.
    on : str
        The column that names an impression, such as a request id: integers or texts.
    time : str
        The column of event times: a timestamp, a date, or numbers of `unit` since 1970.
    label, window, value : optional
        Of the one label, as `Feedback` says.
    policy : str or Policy
        When rows of an impression are emitted: "wait", until the outcome is known, or one of those that do not wait,
        of `onstream.feedback`.
    lateness : float or str
        How much later than its time a row may come: the watermark stays this far behind the newest event time.
    idle : float or str
        A partition from which nothing came for this long, while it was read, no longer holds the watermark back.
    drift : float or str
        How far, in event time, an input may be read ahead of the one that is furthest behind.
    future : float or str, optional
        Rows with an event time this far beyond the clock are rejected. None takes any.
    unit : {"s", "ms", "us", "ns"}
        Of event times that are numbers.
    memory : int or str
        What waiting rows may take in memory, as "512MB"; the others are on disk.
    spill : path, optional
        The folder for those; by default within the job's directory.
    clock : Clock, optional

    Raises
    ------
    JobError
        If the settings do not go together.

    Notes
    -----
    An impression gets each label from the feedback of its key whose event time is at most `lateness` before its own
    and at most `window` after it, in whatever order they arrive, and is emitted when the watermark has passed its
    time and its longest window. The watermark is the least, over all partitions of all inputs that are neither idle
    nor ended, of the newest event time less `lateness`. Rows are emitted in the order of their due time, then of
    their partition and position: as long as nothing is late, the joined stream depends on neither the speed nor
    the interleaving of its inputs.

    Of impressions with one key, the first counts while it waits. What comes too late to matter is counted and
    dropped. When all inputs have ended, everything is emitted.

    What waits is part of every checkpoint: after a crash each row is there, once. The index of waiting rows, about
    40 bytes each, stays in memory. The only partition is "join"; a position is the number of rows before it.

    Examples
    --------
    >>> import tempfile, threading
    >>> from onstream import Log
    >>> from onstream.feedback import Wait
    >>> folder = tempfile.mkdtemp()
    >>> shown, clicks = Log(f"{folder}/shown.db", follow=False), Log(f"{folder}/clicks.db", follow=False)
    >>> _ = shown.append([{"id": 1, "at": 100, "user": 7}, {"id": 2, "at": 101, "user": 8}])
    >>> _ = clicks.append([{"id": 2, "at": 150}])
    >>> join = Join(shown, clicks, on="id", time="at", label="clicked", window="1m", policy=Wait(measured=0))
    >>> [chunk] = [c for c in join.read({}, max_rows=100, stop=threading.Event()) if c.batch.num_rows]
    >>> chunk.batch.to_pylist()
    [{'id': 1, 'at': 100, 'user': 7, 'clicked': 0}, {'id': 2, 'at': 101, 'user': 8, 'clicked': 1}]
    """

    def __init__(
        self,
        impressions: Stream,
        feedback: Stream | Sequence[Feedback],
        *,
        on: str,
        time: str = "event_time",
        label: str | None = None,
        window: float | str | None = None,
        value: str | None = None,
        policy: str | Policy = "wait",
        lateness: float | str = "5s",
        idle: float | str = "30s",
        drift: float | str = "1m",
        future: float | str | None = "1d",
        unit: Unit = "s",
        memory: int | str = "512MB",
        spill: str | os.PathLike[str] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Check and keep the settings."""
        if not isinstance(impressions, Stream):
            raise JobError(f"impressions must be a stream, such as Log('shown.db'), got {impressions!r}")
        self.impressions = impressions
        self.feedback = _declared(feedback, label, window, value)
        self._one = isinstance(feedback, Stream)
        self.key = on
        self.time = time
        self.policy = policy
        self.lateness, self.idle, self.drift, self.future = lateness, idle, drift, future
        self.unit = unit
        self.memory = memory
        self.spill = spill
        self.clock = clock
        if unit not in ("s", "ms", "us", "ns"):
            raise JobError(f"unit must be 's', 'ms', 'us' or 'ns', got {unit!r}")
        durations = {"lateness": lateness, "idle": idle, "drift": drift}
        for name, duration in (durations if future is None else {**durations, "future": future}).items():
            _check_duration(name, duration)
        for name, stream in ((_IMPRESSIONS, impressions), *((f.label, f.stream) for f in self.feedback)):
            if is_shared(stream):
                raise JobError(
                    f"{name}: of topics that the group {getattr(stream, 'group', '')!r} shares, an impression and its "
                    f"feedback may come to different processes; say partitions='all', or leave out group="
                )
        self._plan = Plan(self.feedback, policy, seconds(lateness))
        _distinct([name for each in self._plan.labels for name in label_names(each)] + [on, time])
        self._memory_bytes = size_bytes(memory)
        self._notes: list[str] = []
        self._states: Mapping[str, State] = {}
        self._folder: Path | None = None if spill is None else Path(spill)
        self._reading: Joining | None = None

    def __repr__(self) -> str:
        return f"Join({self.impressions!r}, {list(self.feedback)!r}, on={self.key!r}, time={self.time!r})"

    @property
    def settings(self) -> Mapping[str, Any]:
        """The parameters by name; `label`, `window` and `value` where there is one label and no `Feedback`."""
        names = ("time", "policy", "lateness", "idle", "drift", "future", "unit", "memory", "spill", "clock")
        [first, *_] = self.feedback
        one = {"feedback": first.stream, "label": first.label, "window": first.window, "value": first.value}
        feedback = one if self._one else {"feedback": self.feedback}
        others = {name: getattr(self, name) for name in names}
        return {"impressions": self.impressions, **feedback, "on": self.key, **others}

    @property
    def policies(self) -> dict[str, Policy]:
        """The policy of each label."""
        return {label.name: label.policy for label in self._plan.labels}

    @property
    def live(self) -> bool:
        """Whether an input may be silent for long."""
        return any(stream.live for stream in self._inputs)

    @property
    def notes(self) -> list[str]:
        """What people should know of its inputs; taken away when told."""
        for stream in self._inputs:
            self._notes.extend(take_notes(stream))
        return self._notes

    def replace(self, **changes: Any) -> Join:
        """Return the same join with other parameters."""
        return Join(**{**self.settings, **changes})

    def peek(self) -> Join:
        """Return the same join for a look at its beginning, of which nobody hears."""
        parts = [peeked(stream) for stream in self._inputs]
        return self._with(parts[0], parts[1:])

    def placed(self, folder: Path) -> Join:
        """Return the same join with a folder to work in, unless it was given one; so are its inputs."""
        parts = [placed(stream, folder / f"input-{i}") for i, stream in enumerate(self._inputs)]
        made = self._with(parts[0], parts[1:])
        made._folder = self._folder or Path(folder)
        return made

    def select(self, names: Collection[str]) -> Join:
        """Return the same join, of which the inputs decode only what these columns and the join itself need."""
        added = {name for label in self._plan.labels for name in label_names(label)}
        shown = list(dict.fromkeys(n for n in (*names, self.key, self.time) if n not in added))
        return self._with(
            selected(self.impressions, shown),
            [selected(f.stream, self._needed(f)) for f in self.feedback],
        )

    def kept(self, positions: Positions) -> None:
        """Tell the inputs how far they were read when a checkpoint that is durable now was made."""
        kept = self._reading.read_before(positions.get(PARTITION, 0)) if self._reading else self._stored
        for i, stream in self._keeping:
            if kept is not None:
                stream.kept(kept[i])

    def asks(self, positions: Positions) -> bool:
        """Return whether an input wants a checkpoint now."""
        learned = self._reading.read_before(positions.get(PARTITION, 0)) if self._reading else None
        return learned is not None and any(stream.asks(learned[i]) for i, stream in self._keeping)

    def release(self) -> None:
        """Let the inputs go."""
        for _, stream in self._keeping:
            stream.release()

    def load(self, states: Mapping[str, State]) -> None:
        """Let the next `read` go on from what a checkpoint holds of a join."""
        if JOIN not in states:
            raise CheckpointError(
                f"the checkpoint holds no join, it has {sorted(states)}; use another directory"
            )
        self._states = states

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until all inputs end or `stop` is set.

        Raises
        ------
        CheckpointError
            If `positions` are not at the beginning and nothing was loaded that belongs to them.
        StreamError
            If an input cannot be read, or the disk has no room for waiting rows.
        """
        joining = self._joining()
        position, states = positions.get(PARTITION, 0), self._states
        self._states = {}
        if states:
            joining.load(states, position)
        elif position:
            raise CheckpointError(
                f"a join goes on from row {position} only with what it remembered; the checkpoint has nothing of it"
            )
        self._reading = joining
        return self._given(joining, self._read(joining, max_rows, stop))

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how much of the impressions is not read yet; None if that is unknown."""
        reading = self._reading
        return self.impressions.behind(dict(reading.positions[0]) if reading else {})

    def schema(self) -> pa.Schema:
        """Return the columns of the impressions and of the labels."""
        made = self.impressions.schema()
        for label in self._plan.labels:
            made = made.append(pa.field(label.name, pa.float64() if label.valued else pa.int8()))
            if label.policy.columns:
                made = made.append(pa.field(phase_column(label.name), pa.int8()))
                made = made.append(pa.field(elapsed_column(label.name), pa.float32()))
                made = made.append(pa.field(time_column(label.name), pa.float64()))
        return made

    def _given(self, joining: Joining, chunks: Generator[Chunk, None, None]) -> Iterator[Chunk]:
        """Give chunks; the time that whoever takes them takes is no silence of the inputs."""
        with closing(chunks):
            for chunk in chunks:
                given = self.clock.time()
                yield chunk
                taken_s = self.clock.time() - given
                for each in joining.inputs:
                    each.excuse_for(taken_s)

    def _read(self, joining: Joining, max_rows: int, stop: threading.Event) -> Generator[Chunk, None, None]:
        yield from joining.resume(max_rows)
        drift, idle_s = microseconds(seconds(self.drift)), seconds(self.idle)
        unsaid = 0
        # Up to which event time nothing of an input is held: how much waits depends on it, but no row.
        freed: dict[int, int] = {}
        with Inputs(self._inputs, joining.positions, max_rows) as inputs:
            while not stop.is_set():
                now = self.clock.time()
                asked = wanted(joining.inputs, now, idle_s, drift)
                for i, each in enumerate(joining.inputs):
                    if i not in asked:
                        each.excuse(now)
                    each.excuse_partitions(inputs.held(i), now)
                taken = inputs.take(asked, _POLL_S)
                # After the chunk came, and before it counts: whose rows have come knows its partitions, and those
                # of which nothing has come yet hold the watermark back.
                for i, each in enumerate(joining.inputs):
                    each.expect(inputs.expected(i), now)
                if taken is not None:
                    index, chunk = taken
                    if chunk is END:
                        if stop.is_set():
                            return
                        joining.inputs[index].ended = True
                    else:
                        rejects = joining.take(index, chunk)
                        unsaid += chunk.batch.num_rows + max_rows // _UNSAID_CHUNKS
                        if rejects:
                            yield _empty(joining, rejects)
                emitted = joining.emitted
                yield from joining.advance(max_rows)
                if joining.emitted > emitted:
                    # These rows carry what was remembered before them; that they are out is still to be said.
                    unsaid = 1
                # What is remembered belongs in checkpoints while there are no rows to carry it.
                elif unsaid and (unsaid >= max_rows or taken is None):
                    yield _empty(joining)
                    unsaid = 0
                if (level := joining.level()) is not None:
                    for i, each in enumerate(joining.inputs):
                        # One that is never silent, and gives nothing, has come to the end of what the held wait for.
                        if taken is None and i in asked and not each.live:
                            freed[i] = level
                        inputs.hold(i, () if freed.get(i) == level else each.ahead_of(level + drift))
                if all(each.ended for each in joining.inputs):
                    yield from joining.finish(max_rows)
                    yield _empty(joining)
                    return

    @property
    def _stored(self) -> list[Positions]:
        """Where the inputs are read on from after what was loaded."""
        stored = self._states[JOIN].facts["positions"] if self._states else [{} for _ in self._inputs]
        return [dict(positions) for positions in stored]

    def _needed(self, feedback: Feedback) -> list[str]:
        """Return the columns that are read of feedback."""
        return [
            name for name in (feedback.on or self.key, feedback.time or self.time, feedback.value) if name
        ]

    def _joining(self) -> Joining:
        now = self.clock.time()
        rules = Rules(
            inputs=(
                InputRules(_IMPRESSIONS, self.key, self.time, self.unit),
                *(
                    InputRules(f.label, f.on or self.key, f.time or self.time, self.unit, f.value)
                    for f in self.feedback
                ),
            ),
            plan=self._plan,
            lateness=microseconds(seconds(self.lateness)),
            idle_s=seconds(self.idle),
            future=None if self.future is None else microseconds(seconds(self.future)),
        )
        inputs = [InputTime(s.live, takes_turns(s), now) for s in self._inputs]
        memory = Memory(self._memory_bytes, self._folder or Path(tempfile.gettempdir()))
        return Joining(rules, inputs, memory, self.clock)

    @property
    def _keeping(self) -> list[tuple[int, Keeping]]:
        return [(i, stream) for i, stream in enumerate(self._inputs) if isinstance(stream, Keeping)]

    def _with(self, impressions: Stream, feedback: Sequence[Stream]) -> Join:
        """Return the same join of other inputs."""
        made = copy.copy(self)
        made.impressions = impressions
        made.feedback = tuple(replace(f, stream=s) for f, s in zip(self.feedback, feedback, strict=True))
        return made

    @property
    def _inputs(self) -> list[Stream]:
        return [self.impressions, *(each.stream for each in self.feedback)]


def _declared(
    feedback: Stream | Sequence[Feedback], label: str | None, window: float | str | None, value: str | None
) -> tuple[Feedback, ...]:
    if isinstance(feedback, Stream):
        if label is None or window is None:
            raise JobError(
                "a join needs the label that feedback gives, and its window: label='clicked', window='30m'"
            )
        return (Feedback(feedback, label, window, value),)
    if (label, window, value) != (None, None, None):
        raise JobError("label, window and value are said in each Feedback where there are several")
    declared = tuple(feedback)
    if not declared or not all(isinstance(each, Feedback) for each in declared):
        raise JobError(
            f"feedback must be a stream or some of Feedback(stream, label, window), got {feedback!r}"
        )
    return declared


def _check_duration(name: str, duration: float | str) -> None:
    try:
        seconds(duration)
    except JobError as error:
        raise JobError(f"{name}: {error}") from None


def _distinct(names: list[str]) -> None:
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise JobError(f"the column {twice[0]!r} of the join would be there twice; give a label another name")


def _empty(joining: Joining, rejects: Sequence[Reject] = ()) -> Chunk:
    return Chunk(
        no_rows(NO_COLUMNS), PARTITION, joining.emitted, rejects=tuple(rejects), state=joining.capture()
    )

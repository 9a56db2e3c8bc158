"""The loop: read, predict, evaluate, learn, checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, CheckpointWriter, LocalStore, Manifest, Snapshot
from onstream.contracts import (
    Answering,
    Batch,
    Capture,
    Keeping,
    Learned,
    Learner,
    Positions,
    Predictions,
    State,
    Stateful,
    Stream,
)
from onstream.errors import CheckpointError
from onstream.evaluate import Meter, Report, Sink
from onstream.features import Features
from onstream.streams import Ahead, Cut, DeadLetters, Place, RejectShare, cut
from onstream.streams.ahead import END
from onstream.tables import TableGroup
from onstream.trainer.guard import Guard
from onstream.trainer.pause import Pausing
from onstream.trainer.progress import Observer, Progress, Summary
from onstream.trainer.publish import Gate, Publisher
from onstream.trainer.random_state import load_random_state, random_state, seed_random
from onstream.trainer.schedule import Schedule
from onstream.trainer.settings import Settings
from onstream.trainer.stored_states import StoredCapture, StoredStates
from onstream.trainer.warm_start import WarmStart

__all__ = ["Trainer"]

DEAD_LETTERS = "dead_letters.jsonl"

# Rows read at once: large enough that decoding is cheap a row, small enough that memory stays bounded.
_LEAST_CHUNK_ROWS = 16_384

# How often a silent stream is looked away from: neither does that cost time, nor is a checkpoint late for long.
_LEAST_SILENCE_S = 0.05
_MOST_SILENCE_S = 60.0

# How the names of states begin that belong to the stream.
_STREAM = "stream/"

OpenSinks: TypeAlias = Callable[[int], Iterable[Sink]]


@dataclass
class _Counts:
    """What is counted since the stream began; part of the checkpoint."""

    examples: int = 0
    repeated: int = 0
    batches: int = 0
    rejected: int = 0
    dropped: int = 0
    event_time: int = 0


def _features_of(facts: Mapping[str, Any]) -> Any:
    """Return the features that a version was made with, as far as its facts tell."""
    job = facts.get("job")
    return job.get("features") if isinstance(job, Mapping) else None


class Trainer:
    """Train on a stream from where the directory's newest checkpoint stands.

    Parameters
    ----------
    stream : Stream
    features : Features
    learner : Learner
    directory : path
        Where checkpoints and dead letters are kept.
    settings : Settings
    facts : mapping
        JSON values kept with every checkpoint, such as a description of the job.
    sinks : callable, optional
        Given the number of examples after which training goes on, opens the sinks to report to; they are closed
        at the end of the run.
    observer : Observer, optional
    warm_start : WarmStart, optional
        What to begin with where the directory has no checkpoint.

    Notes
    -----
    Every example is predicted before it is learned from. A checkpoint binds parameters, tables, positions,
    metrics, feature transforms and random states; going on from it gives the same bits as never having
    stopped, on the same machine with the same settings, where batches are cut by row count. The global
    generators of Python, numpy and torch are seeded, and restored, since a network may draw from them. One thing
    may differ: how many rows past their time-to-live still take memory, which no prediction depends on.
    """

    def __init__(
        self,
        stream: Stream,
        features: Features,
        learner: Learner,
        directory: str | Path,
        *,
        settings: Settings = Settings(),
        facts: Mapping[str, Any] | None = None,
        sinks: OpenSinks | None = None,
        observer: Observer | None = None,
        warm_start: WarmStart | None = None,
    ) -> None:
        self.stream = stream
        self.features = features
        self.learner = learner
        self.directory = Path(directory)
        self.settings = settings
        self.meter = Meter(features.layout.labels, window=settings.window, groups=features.groups)
        self.tables = TableGroup(features.layout.tables, seed=settings.seed, threads=settings.threads)
        self.positions: Positions = {}
        self._facts = dict(facts or {})
        self._open_sinks = sinks
        self._sinks: Sequence[Sink] = ()
        self._observer = observer
        self._warm_start = warm_start
        self._counts = _Counts()
        # Steps of this run, those without rows included: how a stream remembers is no matter of batches.
        self._steps = self._kept_steps = 0
        self._features_state = features.state()
        self._source: Capture | None = None
        self._network: State | None = None
        self._report = self.meter.report()
        self._share = RejectShare(settings.max_bad_share)
        self._replace: set[str] = set()
        self._gate = Gate.of(settings, features.layout, features.groups)
        self._guard = Guard.of(settings, features.layout)
        self._pausing = Pausing(self.directory, self._guard, self._note)
        self._publisher: Publisher | None = None
        learner.bind(features.layout, settings.seed)

    def run(self, stop: threading.Event | None = None) -> Summary:
        """Train until the stream ends or `stop` is set; the last batch is finished and checkpointed either way.

        After an error `stop` is set, so that a silent stream is not waited for.

        Raises
        ------
        BadInputError
            If too many recent rows are bad; a stream that ends early is judged by all the rows it had.
        DivergedError
            If loss or gradients keep being not finite.
        CheckpointError
            If checkpoints cannot be written, or none of those there can be used.
        StreamError
            If the stream cannot be read.
        """
        stop = stop or threading.Event()
        with ExitStack() as stack:
            log = stack.enter_context(
                CheckpointLog(LocalStore(self.directory), keep=self.settings.keep, report=self._note)
            )
            # The log comes first: it keeps a second job out of this directory.
            resumed = log.restore()
            letters = stack.enter_context(DeadLetters(self.directory / DEAD_LETTERS))
            if resumed is None:
                self._begin(letters)
            else:
                self._restore(log, resumed, letters)
            if self.settings.publish is not None:
                self._publisher = Publisher(log, self.settings.publish, self._gate, self._note)
                if resumed is not None:
                    self._publisher.judge(resumed)
            if isinstance(self.stream, Keeping):
                self.stream.kept(dict(self.positions))
                # After the writer, so that what the last checkpoint holds is known to be durable.
                stack.callback(self.stream.release)
            writer = stack.enter_context(CheckpointWriter(log, report=self._note, committed=self._committed))
            schedule = Schedule(self.settings, self._counts.examples)
            started = self._counts.examples
            if self._open_sinks is not None:
                self._sinks = [stack.enter_context(closing(sink)) for sink in self._open_sinks(started)]
            batches = stack.enter_context(Ahead(self._read(stop), depth=self.settings.read_ahead))
            # After an error a silent stream must not be waited for.
            stack.push(lambda error, *_: stop.set() if error else None)
            self._pausing.begin()
            going = self._stand_still(stop, writer, letters, schedule)
            while going and (batch := batches.take(self._silence_s())) is not END:
                if batch is not None:
                    if self._pausing.refuses(batch, self._counts.examples):
                        self._keep(writer, letters, schedule)
                        going = self._stand_still(stop, writer, letters, schedule)
                    if going:
                        self._learn(batch, letters)
                if self._unkept and (schedule.checkpoint_due() or self._asked()):
                    writer.poll()  # raises if the one before could not be written
                    if not writer.busy:
                        self._checkpoint(writer, letters, schedule)
                if schedule.report_due():
                    self._publish(self._progress(writer.poll(), schedule))
                going = going and not stop.is_set()
            seconds = schedule.running_s()
            if not stop.is_set():
                self._share.check(letters.path, final=True)
            if self._unkept:
                self._keep(writer, letters, schedule)
            progress = self._progress(writer.flush(), schedule)
            self._publish(progress)
        return Summary(
            progress,
            resumed.version if resumed else None,
            self._counts.examples - started,
            seconds,
            stop.is_set(),
        )

    def begin_warm(self) -> None:
        """Take what the job is to begin with, as a run in an empty directory would."""
        if self._warm_start is not None:
            self._warm_start.load_network(self.learner)
        self._warm_up(0)

    def predict(self, rows: pa.RecordBatch) -> Predictions:
        """Predict rows from the stream's columns with the model as it stands; nothing is learned or created."""
        place = Place("", np.arange(rows.num_rows, dtype=np.int64))
        batch = self.features.encode([rows], [place], {}, learn=False)
        pulled = self.tables.pull(batch.keys, now=self._counts.event_time, learn=False)
        return self.learner.predict(batch, pulled)

    # ---------------------------------------------------------------------------------------- one batch

    def _silence_s(self) -> float | None:
        """Return how long to wait for a batch before looking whether a checkpoint or a report is due."""
        if not self.stream.live:
            return None
        due_s = min(self.settings.pace("checkpoint_every_s"), self.settings.report_every_s)
        return min(max(due_s, _LEAST_SILENCE_S), _MOST_SILENCE_S)

    @property
    def _unkept(self) -> bool:
        """Whether there is something that no snapshot holds."""
        return self._steps > self._kept_steps

    def _read(self, stop: threading.Event) -> Iterator[Batch]:
        """Read, cut and encode; runs ahead of the learner in threads of its own."""
        size = self.settings.batch_size
        chunk_rows = max(size, _LEAST_CHUNK_ROWS // size * size)
        with Ahead(self.stream.read(dict(self.positions), max_rows=chunk_rows, stop=stop), depth=2) as chunks:
            # Only a stream that may be silent cuts by waiting: a slow machine must not change the batches.
            max_wait_s = None
            if self.stream.live:
                max_wait_s = min(self.settings.pace("max_wait_s"), threading.TIMEOUT_MAX)
            for piece in cut(chunks, rows=size, positions=dict(self.positions), max_wait_s=max_wait_s):
                if stop.is_set() and max_wait_s is None and piece.num_rows < size:
                    # The stop cut this batch short, not the end of the stream: the next run reads it whole.
                    return
                yield self._encode(piece)

    def _stand_still(
        self, stop: threading.Event, writer: CheckpointWriter, letters: DeadLetters, schedule: Schedule
    ) -> bool:
        """Wait while paused, reporting all the same; return whether to go on."""

        def tend() -> None:
            if schedule.report_due():
                self._publish(self._progress(writer.poll(), schedule))

        return self._pausing.wait(stop, tend=tend, keep=lambda: self._keep(writer, letters, schedule))

    def _encode(self, piece: Cut) -> Batch:
        batch = self.features.encode(
            piece.batches, piece.places, positions=piece.positions, rejects=piece.rejects
        )
        plans = self.tables.plan(batch.keys)
        return replace(batch, source=piece.state, again=piece.again, plans=plans)

    def _learn(self, batch: Batch, letters: DeadLetters) -> None:
        counts = self._counts
        outcome = None
        if batch.num_rows:
            self._network = None
            self._warm_up(batch.now)
            counts.event_time = max(counts.event_time, batch.now)
            ids_before = self._num_ids()
            rows = self.tables.pull(batch.keys, now=counts.event_time, plans=batch.plans)
            if self._guard and not batch.again:
                self._guard.update(batch, self._num_ids() - ids_before)
            outcome = self.learner.learn(batch, rows)
            if outcome.dropped:
                counts.dropped += 1
                self._note(
                    f"batch {counts.batches + 1} dropped: its loss or gradients are not finite "
                    f"(loss {outcome.loss}); parameters are as before"
                )
            else:
                self.tables.push(batch.keys, outcome.row_grads, batch.plans)
                if not batch.again:
                    self.meter.update(outcome.predictions, batch)
        self._steps += 1
        counts.batches += bool(batch.num_rows or batch.rejects)
        if batch.again:
            # What is wrong with these rows was told when they came first.
            counts.repeated += batch.num_rows
            batch = replace(batch, rejects=())
        counts.examples += 0 if batch.again else batch.num_rows
        counts.rejected += len(batch.rejects)
        if isinstance(self.stream, Answering):
            labels = self.features.layout.labels
            self.stream.answer(Learned(dict(self.positions), batch, outcome, labels, counts.examples))
        self.positions.update(batch.positions)
        self._features_state = batch.state
        self._source = batch.source or self._source
        if batch.rejects:
            letters.write(batch.rejects)
        self._share.update(batch.num_rows, batch.rejects)
        self._share.check(letters.path)

    def _num_ids(self) -> int:
        """Return the number of rows of all tables, and of ids that wait for one."""
        return sum(len(self.tables[name]) + self.tables[name].num_candidates for name in self.tables)

    # -------------------------------------------------------------------------------------- checkpoints

    def _checkpoint(self, writer: CheckpointWriter, letters: DeadLetters, schedule: Schedule) -> None:
        """Hand a snapshot to the writer, which makes it durable in the background."""
        # Outside the pause: learners that export what stays the same take a second for it, once a run.
        exported = self.learner.export() or self._network
        with schedule.pausing():
            writer.submit(self._snapshot(letters, exported))

    def _keep(self, writer: CheckpointWriter, letters: DeadLetters, schedule: Schedule) -> None:
        """Make a checkpoint, with metrics of now, and wait until it is durable."""
        writer.flush()
        self._measure()
        self._checkpoint(writer, letters, schedule)
        writer.flush()

    def _snapshot(self, letters: DeadLetters, exported: State | None) -> Snapshot:
        # Where no example has come yet: the first checkpoint holds what the job began with.
        self._warm_up(int(time.time()))
        replace, self._replace = self._replace, set()
        self._kept_steps = self._steps
        return Snapshot(
            tables=self.tables.cut(),
            states={
                # For those who serve; going on does not need it.
                **({} if exported is None else {"network": exported}),
                "learner": self.learner.state(),
                "tables": self.tables.state(),
                "features": self._features_state,
                "meter": self.meter.state(),
                "rejects": self._share.state(),
                "random": random_state(),
                "letters": letters.state(),
                "trainer": State(facts=asdict(self._counts)),
                **({"guard": self._guard.state()} if self._guard else {}),
                **{f"{_STREAM}{k}": state for k, state in self._source_states().items()},
            },
            positions=dict(self.positions),
            facts={
                **self._facts,
                "metrics": self._report.flat(),
                **asdict(self._counts),
                # When it was cut, in seconds since 1970: what is served is as old as this.
                "time": time.time(),
            },
            table_facts=self.tables.describe(),
            replace=replace,
        )

    def _begin(self, letters: DeadLetters) -> None:
        # Rows that were rejected before the first checkpoint will be met, and written, again.
        letters.truncate(0)
        seed_random(self.settings.seed)
        self._note(f"beginning anew in {self.directory.resolve()}")
        if self._warm_start is not None:
            self._warm_start.load_network(self.learner)

    def _warm_up(self, now: int) -> None:
        """Put in the rows that the job is to begin with, once; they count as seen `now`."""
        warm_start, self._warm_start = self._warm_start, None
        if warm_start is not None:
            for note in warm_start.load_rows(self.features, self.tables, now=now):
                self._note(note)

    def _asked(self) -> bool:
        """Return whether the stream wants what was learned to be durable now."""
        return isinstance(self.stream, Keeping) and self.stream.asks(self.positions)

    def _committed(self, manifest: Manifest) -> None:
        """Tell of a checkpoint that is durable, in the thread that wrote it."""
        if self._publisher:
            self._publisher.judge(manifest)
        if isinstance(self.stream, Keeping):
            self.stream.kept(dict(manifest.positions))

    def _restore(self, log: CheckpointLog, manifest: Manifest, letters: DeadLetters) -> None:
        stored = {name: chain.facts for name, chain in manifest.tables.items()}
        for chain, sources in self.tables.sources(stored).items():
            # Rows that come from chains of other names begin a chain of their own.
            moved = sources not in ([chain], [])
            for source in sources:
                deltas = log.rows(manifest, source, verify=False)
                if moved:
                    self.tables.adopt(chain, deltas)
                else:
                    self.tables.load(chain, deltas)
            if moved or (chain in stored and not sources):
                self._replace.add(chain)
        self.learner.load(log.states(manifest, "learner"))
        self.tables.load_state(log.states(manifest, "tables"))
        self._features_state = log.states(manifest, "features")
        self.features.load(self._features_state)
        self._restore_meter(log.states(manifest, "meter"))
        self._share.load(log.states(manifest, "rejects"))
        letters.load(log.states(manifest, "letters"))
        self._counts = _Counts(**log.states(manifest, "trainer").facts)
        load_random_state(log.states(manifest, "random"))
        if self._guard and "guard" in manifest.states:
            self._guard.load(log.states(manifest, "guard"))
        if "network" in manifest.states and _features_of(manifest.facts) == _features_of(self._facts):
            # The learner exports after its first batch; versions before that are to be served as well.
            self._network = log.states(manifest, "network")
        self.positions = dict(manifest.positions)
        self._restore_stream(log, manifest)
        self._note(f"going on from checkpoint {manifest.version}, after {self._counts.examples:,} examples")
        if self._warm_start is not None:
            self._note("the warm start is for a directory without checkpoints; this one has its own model")
            self._warm_start = None

    def _restore_stream(self, log: CheckpointLog, manifest: Manifest) -> None:
        states = StoredStates(log, manifest, _STREAM)
        if states:
            if not isinstance(self.stream, Stateful):
                raise CheckpointError(
                    f"checkpoint {manifest.version} holds what a stream remembers, and {type(self.stream).__name__} "
                    f"remembers nothing; train with the stream of that checkpoint, or in another directory"
                )
            self.stream.load(states)
            self._source = StoredCapture(states)

    def _source_states(self) -> Mapping[str, State]:
        return self._source.states() if self._source else {}

    def _restore_meter(self, state: State) -> None:
        try:
            self.meter.load(state)
            self._measure()
        except CheckpointError:
            self._note("the labels are others than in the checkpoint, so evaluation begins anew")

    # ---------------------------------------------------------------------------------------- reporting

    def _progress(self, manifest: Manifest | None, schedule: Schedule) -> Progress:
        return Progress(
            examples=self._counts.examples,
            examples_per_s=schedule.rate(self._counts.examples),
            report=self._measure(),
            table_rows=self.tables.num_rows(),
            table_bytes={name: self.tables[name].size_bytes for name in self.tables},
            version=manifest.version if manifest else None,
            checkpoint_age_s=schedule.checkpoint_age_s(),
            longest_pause_s=schedule.longest_pause_s,
            behind=self.stream.behind(self.positions),
            event_time=self._counts.event_time,
            rejected=self._counts.rejected,
            dropped=self._counts.dropped,
            published=self._publisher.published if self._publisher else None,
            guard=self._guard.values() if self._guard else None,
            paused=self._pausing.reason,
            stream=self._source.figures() if self._source else {},
        )

    def _measure(self) -> Report:
        """Take the metrics now. Checkpoints carry the newest that were taken: ranking a window takes too long."""
        self._report = self.meter.report()
        return self._report

    def _publish(self, progress: Progress) -> None:
        for part in (self.stream, self.learner):
            notes = getattr(part, "notes", [])
            while notes:
                self._note(notes.pop(0))
        if self._sinks:
            numbers = progress.flat()
            for sink in self._sinks:
                sink.write(numbers, step=progress.examples, wall_time=time.time())
        if self._observer:
            self._observer.progress(progress)

    def _note(self, text: str) -> None:
        if self._observer:
            self._observer.note(text)

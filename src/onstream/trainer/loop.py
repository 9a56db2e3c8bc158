"""The loop: read, predict, evaluate, learn, checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, CheckpointWriter, LocalStore, Manifest
from onstream.contracts import (
    Answering,
    Batch,
    Keeping,
    Learned,
    Learner,
    Predictions,
    Stream,
    take_notes,
)
from onstream.evaluate import Sink
from onstream.features import Features
from onstream.streams import Ahead, Cut, DeadLetters, Place, cut
from onstream.streams.ahead import END
from onstream.trainer.pause import Pausing
from onstream.trainer.progress import Observer, Progress, Summary
from onstream.trainer.publish import Gate, Publisher
from onstream.trainer.schedule import Schedule
from onstream.trainer.settings import Settings
from onstream.trainer.state import TrainingState
from onstream.trainer.warm_start import WarmStart

__all__ = ["Trainer"]

DEAD_LETTERS = "dead_letters.jsonl"

# Rows read at once: large enough that decoding is cheap a row, small enough that memory stays bounded.
_LEAST_CHUNK_ROWS = 16_384

# How often a silent stream is looked away from: neither does that cost time, nor is a checkpoint late for long.
_LEAST_SILENCE_S = 0.05
_MOST_SILENCE_S = 60.0

OpenSinks: TypeAlias = Callable[[int], Iterable[Sink]]


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
        self._observer = observer
        self._state = TrainingState(
            stream, features, learner, settings, facts or {}, warm_start, note=self._note
        )
        self.tables = self._state.tables
        self._open_sinks = sinks
        self._sinks: Sequence[Sink] = ()
        self._gate = Gate.of(settings, features.layout, features.groups)
        self._pausing = Pausing(self.directory, self._state.guard, self._note)
        self._publisher: Publisher | None = None

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
        state = self._state
        with ExitStack() as stack:
            log = stack.enter_context(
                CheckpointLog(LocalStore(self.directory), keep=self.settings.keep, report=self._note)
            )
            # The log comes first: it keeps a second job out of this directory.
            resumed = log.restore()
            letters = stack.enter_context(DeadLetters(self.directory / DEAD_LETTERS))
            if resumed is None:
                self._note(f"beginning anew in {self.directory.resolve()}")
                state.begin(letters)
            else:
                state.restore(log, resumed, letters)
            if self.settings.publish is not None:
                self._publisher = Publisher(log, self.settings.publish, self._gate, self._note)
                if resumed is not None:
                    self._publisher.judge(resumed)
            if isinstance(self.stream, Keeping):
                self.stream.kept(dict(state.positions))
                # After the writer, so that what the last checkpoint holds is known to be durable.
                stack.callback(self.stream.release)
            writer = stack.enter_context(CheckpointWriter(log, report=self._note, committed=self._committed))
            schedule = Schedule(self.settings, state.counts.examples)
            started = state.counts.examples
            if self._open_sinks is not None:
                self._sinks = [stack.enter_context(closing(sink)) for sink in self._open_sinks(started)]
            batches = stack.enter_context(Ahead(self._read(stop), depth=self.settings.read_ahead))
            # After an error a silent stream must not be waited for.
            stack.push(lambda error, *_: stop.set() if error else None)
            self._pausing.begin()
            going = self._stand_still(stop, writer, letters, schedule)
            while going and (batch := batches.take(self._silence_s())) is not END:
                if batch is not None:
                    if self._pausing.refuses(batch, state.counts.examples):
                        self._keep(writer, letters, schedule)
                        going = self._stand_still(stop, writer, letters, schedule)
                    if going:
                        self._learn(batch, letters)
                if state.unkept and (schedule.checkpoint_due() or self._asked()):
                    writer.poll()  # raises if the one before could not be written
                    if not writer.busy:
                        self._checkpoint(writer, letters, schedule)
                if schedule.report_due():
                    self._publish(self._progress(writer.poll(), schedule))
                going = going and not stop.is_set()
            seconds = schedule.running_s()
            if not stop.is_set():
                state.share.check(letters.path, final=True)
            if state.unkept:
                self._keep(writer, letters, schedule)
            progress = self._progress(writer.flush(), schedule)
            self._publish(progress)
        return Summary(
            progress,
            resumed.version if resumed else None,
            state.counts.examples - started,
            seconds,
            stop.is_set(),
        )

    def begin_warm(self) -> None:
        """Take what the job is to begin with, as a run in an empty directory would."""
        self._state.warm_network()
        self._state.warm_up(0)

    def predict(self, rows: pa.RecordBatch) -> Predictions:
        """Predict rows from the stream's columns with the model as it stands; nothing is learned or created."""
        place = Place("", np.arange(rows.num_rows, dtype=np.int64))
        batch = self.features.encode([rows], [place], {}, learn=False)
        pulled = self.tables.pull(batch.keys, now=self._state.counts.event_time, learn=False)
        return self.learner.predict(batch, pulled)

    # ---------------------------------------------------------------------------------------- one batch

    def _silence_s(self) -> float | None:
        """Return how long to wait for a batch before looking whether a checkpoint or a report is due."""
        if not self.stream.live:
            return None
        due_s = min(self.settings.pace("checkpoint_every_s"), self.settings.report_every_s)
        return min(max(due_s, _LEAST_SILENCE_S), _MOST_SILENCE_S)

    def _read(self, stop: threading.Event) -> Iterator[Batch]:
        """Read, cut and encode; runs ahead of the learner in threads of its own."""
        size, begin = self.settings.batch_size, dict(self._state.positions)
        chunk_rows = max(size, _LEAST_CHUNK_ROWS // size * size)
        with Ahead(self.stream.read(dict(begin), max_rows=chunk_rows, stop=stop), depth=2) as chunks:
            # Only a stream that may be silent cuts by waiting: a slow machine must not change the batches.
            max_wait_s = None
            if self.stream.live:
                max_wait_s = min(self.settings.pace("max_wait_s"), threading.TIMEOUT_MAX)
            for piece in cut(chunks, rows=size, positions=dict(begin), max_wait_s=max_wait_s):
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
        state, counts = self._state, self._state.counts
        outcome = None
        if batch.num_rows:
            state.prepare(batch)
            ids_before = state.num_ids()
            rows = self.tables.pull(batch.keys, now=counts.event_time, plans=batch.plans)
            if state.guard and not batch.again:
                state.guard.update(batch, state.num_ids() - ids_before)
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
                    state.meter.update(outcome.predictions, batch)
        counts.batches += bool(batch.num_rows or batch.rejects)
        if batch.again:
            # What is wrong with these rows was told when they came first.
            counts.repeated += batch.num_rows
            batch = replace(batch, rejects=())
        else:
            asked = batch.num_asked
            counts.asked += asked
            counts.examples += batch.num_rows - asked
        counts.rejected += len(batch.rejects)
        if isinstance(self.stream, Answering):
            labels = self.features.layout.labels
            self.stream.answer(Learned(dict(state.positions), batch, outcome, labels, counts.examples))
        state.advance(batch)
        if batch.rejects:
            letters.write(batch.rejects)
        state.share.check(letters.path)

    # -------------------------------------------------------------------------------------- checkpoints

    def _checkpoint(self, writer: CheckpointWriter, letters: DeadLetters, schedule: Schedule) -> None:
        """Hand a snapshot to the writer, which makes it durable in the background."""
        # Outside the pause: learners that export what stays the same take a second for it, once a run.
        network = self._state.network
        with schedule.pausing():
            writer.submit(self._state.snapshot(letters, network))

    def _keep(self, writer: CheckpointWriter, letters: DeadLetters, schedule: Schedule) -> None:
        """Make a checkpoint, with metrics of now, and wait until it is durable."""
        writer.flush()
        self._state.measure()
        self._checkpoint(writer, letters, schedule)
        writer.flush()

    def _asked(self) -> bool:
        """Return whether the stream wants what was learned to be durable now."""
        return isinstance(self.stream, Keeping) and self.stream.asks(self._state.positions)

    def _committed(self, manifest: Manifest) -> None:
        """Tell of a checkpoint that is durable, in the thread that wrote it."""
        if self._publisher:
            self._publisher.judge(manifest)
        if isinstance(self.stream, Keeping):
            self.stream.kept(dict(manifest.positions))

    # ---------------------------------------------------------------------------------------- reporting

    def _progress(self, manifest: Manifest | None, schedule: Schedule) -> Progress:
        state = self._state
        return Progress(
            examples=state.counts.examples,
            examples_per_s=schedule.rate(state.counts.examples),
            report=state.measure(),
            table_rows=self.tables.num_rows(),
            table_bytes={name: self.tables[name].size_bytes for name in self.tables},
            version=manifest.version if manifest else None,
            checkpoint_age_s=schedule.checkpoint_age_s(),
            longest_pause_s=schedule.longest_pause_s,
            behind=self.stream.behind(state.positions),
            event_time=state.counts.event_time,
            rejected=state.counts.rejected,
            dropped=state.counts.dropped,
            published=self._publisher.published if self._publisher else None,
            guard=state.guard.values() if state.guard else None,
            paused=self._pausing.reason,
            stream=state.source.figures() if state.source else {},
        )

    def _publish(self, progress: Progress) -> None:
        for part in (self.stream, self.learner):
            for note in take_notes(part):
                self._note(note)
        if self._sinks:
            numbers = progress.flat()
            for sink in self._sinks:
                sink.write(numbers, step=progress.examples, wall_time=time.time())
        if self._observer:
            self._observer.progress(progress)

    def _note(self, text: str) -> None:
        if self._observer:
            self._observer.note(text)

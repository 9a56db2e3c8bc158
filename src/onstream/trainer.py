"""The loop: read, predict, evaluate, learn, checkpoint."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, CheckpointWriter, LocalStore, Manifest, Snapshot
from onstream.contracts import Batch, Learner, Positions, Predictions, State, Stream
from onstream.errors import CheckpointError, JobError
from onstream.evaluate import Meter, Report, Sink
from onstream.features import Features
from onstream.streams import Ahead, Cut, DeadLetters, Place, RejectShare, cut
from onstream.streams.ahead import END
from onstream.tables import TableGroup

__all__ = ["Observer", "Progress", "Settings", "Summary", "Trainer"]

DEAD_LETTERS = "dead_letters.jsonl"

# Rows read at once: large enough that decoding is cheap a row, small enough that memory stays bounded.
_LEAST_CHUNK_ROWS = 16_384

# How often a silent stream is looked away from: neither does that cost time, nor is a checkpoint late for long.
_LEAST_SILENCE_S = 0.05
_MOST_SILENCE_S = 60.0

OpenSinks: TypeAlias = Callable[[int], Iterable[Sink]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a job is run.

    Attributes
    ----------
    batch_size : int
        Rows of a batch.
    max_wait_s : float
        On a slow stream, the longest that a row waits for its batch to fill, in seconds.
    read_ahead : int
        Batches that are read, decoded and hashed ahead of the learner.
    checkpoint_every_s : float
        Seconds between checkpoints.
    keep : int
        Checkpoints that are kept, besides tagged ones.
    max_bad_share : float
        Stop when more than this share of the recent rows is bad.
    window : int
        Examples over which windowed metrics are taken.
    report_every_s : float
        Seconds between reports to the terminal, TensorBoard and Prometheus.
    seed : int
        Decides the initial rows and parameters.
    threads : int, optional
        Threads of the tables; by default one per processor, at most 16.
    """

    batch_size: int = 1024
    max_wait_s: float = 1.0
    read_ahead: int = 8
    checkpoint_every_s: float = 10.0
    keep: int = 5
    max_bad_share: float = 0.1
    window: int = 100_000
    report_every_s: float = 2.0
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch_size", "read_ahead", "keep", "window"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise JobError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("max_wait_s", "checkpoint_every_s", "report_every_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise JobError(f"{name} must be a positive number of seconds, got {value!r}")
        share = self.max_bad_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise JobError(f"max_bad_share must be between 0 and 1, got {share!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise JobError(f"seed must be a whole number from 0 to 2^64 - 1, got {self.seed!r}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise JobError(f"threads must be a whole number of at least 1, got {self.threads!r}")

    def only(self) -> Settings:
        """Return the settings alone, without what a subclass adds."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})


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
        The longest that learning stood still for a checkpoint in this run, in seconds.
    behind : tuple of (int, str), or None
        What of the stream is not learned yet, and its unit.
    event_time : int
        Newest event time learned, seconds since 1970; 0 without event times.
    rejected : int
        Bad rows since the stream began.
    dropped : int
        Batches dropped since the stream began, because loss or gradients were not finite.
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


@dataclass
class _Counts:
    """What is counted since the stream began; part of the checkpoint."""

    examples: int = 0
    batches: int = 0
    rejected: int = 0
    dropped: int = 0
    event_time: int = 0


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

    Notes
    -----
    Every example is predicted before it is learned from. A checkpoint binds parameters, tables, positions,
    metrics, feature transforms and random states; going on from it gives the same bits as never having
    stopped, on the same machine with the same settings, where batches are cut by row count. The global
    generators of Python, numpy and torch are seeded, and restored, since a network may draw from them.
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
        self._counts = _Counts()
        self._kept_batches = 0
        self._features_state = features.state()
        self._report = self.meter.report()
        self._share = RejectShare(settings.max_bad_share)
        self._replace: set[str] = set()
        learner.bind(features.layout, settings.seed)

    def run(self, stop: threading.Event | None = None) -> Summary:
        """Train until the stream ends or `stop` is set; the last batch is finished and checkpointed either way.

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
            writer = stack.enter_context(CheckpointWriter(log, report=self._note))
            clock = _Clock(self.settings, self._counts.examples)
            started = self._counts.examples
            if self._open_sinks is not None:
                self._sinks = [stack.enter_context(closing(sink)) for sink in self._open_sinks(started)]
            batches = stack.enter_context(Ahead(self._read(stop), depth=self.settings.read_ahead))
            # After an error a silent stream must not be waited for.
            stack.push(lambda error, *_: stop.set() if error else None)
            while (batch := batches.take(self._silence_s())) is not END:
                if batch is not None:
                    self._learn(batch, letters)
                if clock.checkpoint_due() and self._unkept and not writer.busy:
                    self._checkpoint(writer, letters, clock)
                if clock.report_due():
                    self._publish(self._progress(writer.poll(), clock))
                if stop.is_set():
                    break
            seconds = clock.running_s()
            if not stop.is_set():
                self._share.check(letters.path, final=True)
            writer.flush()
            if self._unkept:
                self._measure()
                self._checkpoint(writer, letters, clock)
            progress = self._progress(writer.flush(), clock)
            self._publish(progress)
        return Summary(
            progress,
            resumed.version if resumed else None,
            self._counts.examples - started,
            seconds,
            stop.is_set(),
        )

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
        due_s = min(self.settings.checkpoint_every_s, self.settings.report_every_s)
        return min(max(due_s, _LEAST_SILENCE_S), _MOST_SILENCE_S)

    @property
    def _unkept(self) -> bool:
        """Whether there is something that no snapshot holds."""
        return self._counts.batches > self._kept_batches

    def _read(self, stop: threading.Event) -> Iterator[Batch]:
        """Read, cut and encode; runs ahead of the learner in threads of its own."""
        size = self.settings.batch_size
        chunk_rows = max(size, _LEAST_CHUNK_ROWS // size * size)
        with Ahead(self.stream.read(dict(self.positions), max_rows=chunk_rows, stop=stop), depth=2) as chunks:
            # Only a stream that may be silent cuts by waiting: a slow machine must not change the batches.
            max_wait_s = min(self.settings.max_wait_s, threading.TIMEOUT_MAX) if self.stream.live else None
            for piece in cut(chunks, rows=size, positions=dict(self.positions), max_wait_s=max_wait_s):
                if stop.is_set() and max_wait_s is None and piece.num_rows < size:
                    # The stop cut this batch short, not the end of the stream: the next run reads it whole.
                    return
                yield self._encode(piece)

    def _encode(self, piece: Cut) -> Batch:
        return self.features.encode(
            piece.batches, piece.places, positions=piece.positions, rejects=piece.rejects
        )

    def _learn(self, batch: Batch, letters: DeadLetters) -> None:
        counts = self._counts
        if batch.num_rows:
            counts.event_time = max(counts.event_time, batch.now)
            rows = self.tables.pull(batch.keys, now=counts.event_time)
            outcome = self.learner.learn(batch, rows)
            if outcome.dropped:
                counts.dropped += 1
                self._note(
                    f"batch {counts.batches + 1} dropped: its loss or gradients are not finite "
                    f"(loss {outcome.loss}); parameters are as before"
                )
            else:
                self.tables.push(batch.keys, outcome.row_grads)
                self.meter.update(outcome.predictions, batch)
        counts.examples += batch.num_rows
        counts.batches += 1
        counts.rejected += len(batch.rejects)
        self.positions.update(batch.positions)
        self._features_state = batch.state
        if batch.rejects:
            letters.write(batch.rejects)
        self._share.update(batch.num_rows, batch.rejects)
        self._share.check(letters.path)

    # -------------------------------------------------------------------------------------- checkpoints

    def _checkpoint(self, writer: CheckpointWriter, letters: DeadLetters, clock: _Clock) -> None:
        """Hand a snapshot to the writer, which makes it durable in the background."""
        with clock.pausing():
            writer.submit(self._snapshot(letters))

    def _snapshot(self, letters: DeadLetters) -> Snapshot:
        replace, self._replace = self._replace, set()
        self._kept_batches = self._counts.batches
        return Snapshot(
            tables=self.tables.cut(),
            states={
                "learner": self.learner.state(),
                "tables": self.tables.state(),
                "features": self._features_state,
                "meter": self.meter.state(),
                "rejects": self._share.state(),
                "random": _random_state(),
                "letters": letters.state(),
                "trainer": State(facts=asdict(self._counts)),
            },
            positions=dict(self.positions),
            facts={**self._facts, "metrics": self._report.flat(), **asdict(self._counts)},
            table_facts=self.tables.describe(),
            replace=replace,
        )

    def _begin(self, letters: DeadLetters) -> None:
        # Rows that were rejected before the first checkpoint will be met, and written, again.
        letters.truncate(0)
        random.seed(self.settings.seed)
        np.random.seed(self.settings.seed % (1 << 32))

    def _restore(self, log: CheckpointLog, manifest: Manifest, letters: DeadLetters) -> None:
        stored = {name: chain.facts for name, chain in manifest.tables.items()}
        for chain, sources in self.tables.sources(stored).items():
            # Rows that come from chains of other names begin a chain of their own.
            moved = sources not in ([chain], [])
            for source in sources:
                for delta in log.rows(manifest, source, verify=False):
                    self.tables.load(chain, delta, moved=moved)
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
        self._kept_batches = self._counts.batches
        _load_random_state(log.states(manifest, "random"))
        self.positions = dict(manifest.positions)
        self._note(f"going on from checkpoint {manifest.version}, after {self._counts.examples:,} examples")

    def _restore_meter(self, state: State) -> None:
        try:
            self.meter.load(state)
            self._measure()
        except CheckpointError:
            self._note("the labels are others than in the checkpoint, so evaluation begins anew")

    # ---------------------------------------------------------------------------------------- reporting

    def _progress(self, manifest: Manifest | None, clock: _Clock) -> Progress:
        return Progress(
            examples=self._counts.examples,
            examples_per_s=clock.rate(self._counts.examples),
            report=self._measure(),
            table_rows=self.tables.num_rows(),
            table_bytes={name: self.tables[name].size_bytes for name in self.tables},
            version=manifest.version if manifest else None,
            checkpoint_age_s=clock.checkpoint_age_s(),
            longest_pause_s=clock.longest_pause_s,
            behind=self.stream.behind(self.positions),
            event_time=self._counts.event_time,
            rejected=self._counts.rejected,
            dropped=self._counts.dropped,
        )

    def _measure(self) -> Report:
        """Take the metrics now. Checkpoints carry the newest that were taken: ranking a window takes too long."""
        self._report = self.meter.report()
        return self._report

    def _publish(self, progress: Progress) -> None:
        notes = getattr(self.learner, "notes", [])
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


class _Clock:
    """When a checkpoint or a report is due, and how fast examples go by. Decides nothing that is learned."""

    def __init__(self, settings: Settings, examples: int) -> None:
        now = time.monotonic()
        self._settings = settings
        self._begin = now
        self._checkpoint_at = now
        self._report_at = now
        self.longest_pause_s = 0.0
        self._examples = examples
        self._rate = 0.0

    def checkpoint_due(self) -> bool:
        return time.monotonic() - self._checkpoint_at >= self._settings.checkpoint_every_s

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Time the taking of a checkpoint."""
        begin = time.monotonic()
        yield
        self._checkpoint_at = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, self._checkpoint_at - begin)

    def running_s(self) -> float:
        return time.monotonic() - self._begin

    def checkpoint_age_s(self) -> float:
        return time.monotonic() - self._checkpoint_at

    def report_due(self) -> bool:
        return time.monotonic() - self._report_at >= self._settings.report_every_s

    def rate(self, examples: int) -> float:
        now = time.monotonic()
        # A report right after another, at the end, must not take the job for a slow one.
        if examples > self._examples or now - self._report_at >= self._settings.report_every_s:
            self._rate = (examples - self._examples) / max(now - self._report_at, 1e-9)
        self._examples, self._report_at = examples, now
        return self._rate


def _random_state() -> State:
    """Return the states of the global generators of Python and numpy, which a user's code may draw from."""
    version, words, gauss = random.getstate()
    name, keys, at, has_gauss, cached = np.random.get_state()
    return State(
        {"python": np.array(words, np.uint64), "numpy": np.asarray(keys)},
        {"python": [version, gauss], "numpy": [name, int(at), int(has_gauss), float(cached)]},
    )


def _load_random_state(state: State) -> None:
    version, gauss = state.facts["python"]
    random.setstate((version, tuple(int(w) for w in state.arrays["python"]), gauss))
    name, at, has_gauss, cached = state.facts["numpy"]
    np.random.set_state((name, state.arrays["numpy"].astype(np.uint32), at, has_gauss, cached))

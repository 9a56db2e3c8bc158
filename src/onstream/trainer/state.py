"""What a run learns and remembers, and how it goes into a checkpoint and comes out of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onstream.checkpoints import CheckpointLog, Manifest, Snapshot
from onstream.contracts import Batch, Capture, Learner, Positions, State, Stateful, Stream
from onstream.errors import CheckpointError
from onstream.evaluate import Meter, Report
from onstream.features import Features
from onstream.streams import DeadLetters, RejectShare
from onstream.tables import TableGroup
from onstream.trainer.guard import Guard
from onstream.trainer.random_state import load_random_state, random_state, seed_random
from onstream.trainer.settings import Settings
from onstream.trainer.stored_states import StoredCapture, StoredStates
from onstream.trainer.warm_start import WarmStart

__all__ = ["Counts", "TrainingState"]

# How the names of states begin that belong to the stream.
_STREAM = "stream/"


@dataclass
class Counts:
    """What is counted since the stream began; part of the checkpoint.

    Attributes
    ----------
    examples : int
        Those that were learned from, once each.
    asked : int
        Rows that were predicted only, when their impression came.
    repeated : int
        Examples that came again, in further passes.
    batches, rejected, dropped : int
    event_time : int
        The newest, in seconds since 1970.
    """

    examples: int = 0
    asked: int = 0
    repeated: int = 0
    batches: int = 0
    rejected: int = 0
    dropped: int = 0
    event_time: int = 0


class TrainingState:
    """All that decides how a run goes on.

    Parameters
    ----------
    stream : Stream
    features : Features
    learner : Learner
    settings : Settings
    facts : mapping
        JSON values kept with every checkpoint.
    warm_start : WarmStart, optional
    note : callable
        Receives one sentence for people.

    Attributes
    ----------
    tables : TableGroup
    meter : Meter
    report : Report
        The newest metrics that were taken.
    share : RejectShare
    guard : Guard or None
    counts : Counts
    positions : Positions
        Where to read on.
    source : Capture or None
        What the stream remembered there.
    """

    def __init__(
        self,
        stream: Stream,
        features: Features,
        learner: Learner,
        settings: Settings,
        facts: Mapping[str, Any],
        warm_start: WarmStart | None,
        note: Callable[[str], None],
    ) -> None:
        self.stream = stream
        self.features = features
        self.learner = learner
        self.tables = TableGroup(features.layout.tables, seed=settings.seed, threads=settings.threads)
        self.meter = Meter(features.layout.labels, window=settings.window, groups=features.groups)
        self.report = self.meter.report()
        self.share = RejectShare(settings.max_bad_share)
        self.guard = Guard.of(settings, features.layout)
        self.counts = Counts()
        self.positions: Positions = {}
        self.source: Capture | None = None
        self._features_state = features.state()
        self._network: State | None = None
        self._facts = dict(facts)
        self._seed = settings.seed
        self._warm_start = warm_start
        self._note = note
        # Steps of this run, those without rows included: how a stream remembers is no matter of batches.
        self._steps = self._kept_steps = 0
        self._replace: set[str] = set()
        learner.bind(features.layout, settings.seed)

    @property
    def unkept(self) -> bool:
        """Whether there is something that no snapshot holds."""
        return self._steps > self._kept_steps

    @property
    def network(self) -> State | None:
        """The network in a form that predicts without its code, if there is one; making it may take a second."""
        return self.learner.export() or self._network

    def num_ids(self) -> int:
        """Return the number of rows of all tables, and of ids that wait for one."""
        return sum(len(self.tables[name]) + self.tables[name].num_candidates for name in self.tables)

    def prepare(self, batch: Batch) -> None:
        """Get ready to learn from a batch that has rows."""
        # From now on the learner has its own to export.
        self._network = None
        self.warm_up(batch.now)
        self.counts.event_time = max(self.counts.event_time, batch.now)

    def advance(self, batch: Batch) -> None:
        """Take in that a batch is done."""
        self._steps += 1
        self.positions.update(batch.positions)
        self._features_state = batch.state
        self.source = batch.source or self.source
        self.share.update(batch.num_rows, batch.rejects)

    def measure(self) -> Report:
        """Take the metrics now. Checkpoints carry the newest that were taken: ranking a window takes too long."""
        self.report = self.meter.report()
        return self.report

    # ------------------------------------------------------------------------------------- the beginning

    def begin(self, letters: DeadLetters) -> None:
        """Begin with nothing, or with what the warm start gives."""
        # Rows that were rejected before the first checkpoint will be met, and written, again.
        letters.truncate(0)
        seed_random(self._seed)
        self.warm_network()

    def warm_network(self) -> None:
        """Put in the parameters that the job is to begin with."""
        if self._warm_start is not None:
            self._warm_start.load_network(self.learner)

    def warm_up(self, now: int) -> None:
        """Put in the rows that the job is to begin with, once; they count as seen `now`."""
        warm_start, self._warm_start = self._warm_start, None
        if warm_start is not None:
            for note in warm_start.load_rows(self.features, self.tables, now=now):
                self._note(note)

    # ------------------------------------------------------------------------------------- checkpoints

    def snapshot(self, letters: DeadLetters, network: State | None) -> Snapshot:
        """Return everything as it is now.

        Parameters
        ----------
        letters : DeadLetters
        network : State, optional
            As the property gave it.
        """
        # Where no example has come yet: the first checkpoint holds what the job began with.
        self.warm_up(int(time.time()))
        replace, self._replace = self._replace, set()
        self._kept_steps = self._steps
        return Snapshot(
            tables=self.tables.cut(),
            states={
                # For those who serve; going on does not need it.
                **({} if network is None else {"network": network}),
                "learner": self.learner.state(),
                "tables": self.tables.state(),
                "features": self._features_state,
                "meter": self.meter.state(),
                "rejects": self.share.state(),
                "random": random_state(),
                "letters": letters.state(),
                "trainer": State(facts=asdict(self.counts)),
                **({"guard": self.guard.state()} if self.guard else {}),
                **{f"{_STREAM}{k}": state for k, state in self._source_states().items()},
            },
            positions=dict(self.positions),
            facts={
                **self._facts,
                "metrics": self.report.flat(),
                **asdict(self.counts),
                # When it was cut, in seconds since 1970: what is served is as old as this.
                "time": time.time(),
            },
            table_facts=self.tables.describe(),
            replace=replace,
        )

    def restore(self, log: CheckpointLog, manifest: Manifest, letters: DeadLetters) -> None:
        """Go on from a version.

        Raises
        ------
        CheckpointError
            If it does not belong to this job.
        """
        self._restore_tables(log, manifest)
        self.learner.load(log.states(manifest, "learner"))
        self.tables.load_state(log.states(manifest, "tables"))
        self._features_state = log.states(manifest, "features")
        self.features.load(self._features_state)
        self._restore_meter(log.states(manifest, "meter"))
        self.share.load(log.states(manifest, "rejects"))
        letters.load(log.states(manifest, "letters"))
        self.counts = Counts(**log.states(manifest, "trainer").facts)
        load_random_state(log.states(manifest, "random"))
        if self.guard and "guard" in manifest.states:
            self.guard.load(log.states(manifest, "guard"))
        if "network" in manifest.states and _features_of(manifest.facts) == _features_of(self._facts):
            # The learner exports after its first batch; versions before that are to be served as well.
            self._network = log.states(manifest, "network")
        self.positions = dict(manifest.positions)
        self._restore_stream(log, manifest)
        self._note(f"going on from checkpoint {manifest.version}, after {self.counts.examples:,} examples")
        if self._warm_start is not None:
            self._note("the warm start is for a directory without checkpoints; this one has its own model")
            self._warm_start = None

    def _restore_tables(self, log: CheckpointLog, manifest: Manifest) -> None:
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

    def _restore_meter(self, state: State) -> None:
        try:
            self.meter.load(state)
            self.measure()
        except CheckpointError:
            self._note("the labels are others than in the checkpoint, so evaluation begins anew")

    def _restore_stream(self, log: CheckpointLog, manifest: Manifest) -> None:
        states = StoredStates(log, manifest, _STREAM)
        if states:
            if not isinstance(self.stream, Stateful):
                raise CheckpointError(
                    f"checkpoint {manifest.version} holds what a stream remembers, and {type(self.stream).__name__} "
                    f"remembers nothing; train with the stream of that checkpoint, or in another directory"
                )
            self.stream.load(states)
            self.source = StoredCapture(states)

    def _source_states(self) -> Mapping[str, State]:
        return self.source.states() if self.source else {}


def _features_of(facts: Mapping[str, Any]) -> Any:
    """Return the features that a version was made with, as far as its facts tell."""
    job = facts.get("job")
    return job.get("features") if isinstance(job, Mapping) else None

"""The updater: reads logged rewards, moves the policy, and publishes the next version, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest
from onstream.contracts import Array, Chunk, Positions, Stream, take_notes
from onstream.errors import CheckpointError
from onstream.evolution.model import Model, open_log
from onstream.evolution.reward_rows import read_rewards
from onstream.evolution.rewards import open_rewards
from onstream.evolution.solver import Update
from onstream.streams.chunks import positions_after, slice_chunk

__all__ = ["Progress", "Updater"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One update that is durable.

    Attributes
    ----------
    version : int
        That it made.
    update : Update
    rewards : int
        How many have counted since the beginning.
    """

    version: int
    update: Update
    rewards: int


@dataclass
class _Pending:
    """Rewards that wait for their update to be whole."""

    keys: list[Array] = field(default_factory=list)
    versions: list[Array] = field(default_factory=list)
    rewards: list[Array] = field(default_factory=list)
    count: int = 0
    dropped: int = 0


class Updater:
    """Learn from the rewards that samplers log for a model directory.

    Parameters
    ----------
    directory : path
        Which `onstream es init` began. Nothing of the policy's code is needed.
    changes : mapping, optional
        Settings of the strategy to change: lr, sigma_lr, optimizer, momentum, weight_decay, population or shaping.
    note : callable, optional
        Receives a sentence for whatever a person should know.

    Notes
    -----
    Every `population` rewards that count make one update, and each update one version: a checkpoint that binds the
    parameters and the position in the log up to which rewards were learned from. A crash loses at most the update
    in progress, whose rewards are read again: each counts exactly once. Rewards that are left when a run ends wait
    in the log for the next.

    A reward counts if it is finite and its version is at most `max_staleness` updates old, on the branch that the
    current version grew from: what was logged of versions that were rolled back is dropped.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        changes: Mapping[str, Any] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.directory = Path(directory)
        self._changes = dict(changes or {})
        self._note = note or (lambda _: None)

    def run(
        self,
        stop: threading.Event | None = None,
        *,
        follow: bool = False,
        updated: Callable[[Progress], None] | None = None,
    ) -> int:
        """Update until the log's end, or until `stop` is set; return how many updates were made.

        Parameters
        ----------
        stop : threading.Event, optional
        follow : bool
            At the end of the log, wait for more.
        updated : callable, optional
            Called after each update; may set `stop`.

        Raises
        ------
        CheckpointError
            If the directory holds no policy, another updater works on it, or a version cannot be written.
        StreamError
            If the log cannot be read.
        """
        stop = stop or threading.Event()
        settings = open_log(self.directory)[1].facts["job"]["settings"]
        with CheckpointLog(LocalStore(self.directory), keep=settings["keep"], report=self._note) as log:
            manifest = log.restore()
            if manifest is None:
                raise CheckpointError(f"{str(self.directory)!r} holds no version")
            model = Model.load(log, manifest, self._changes)
            self._publish(log, settings["publish"], manifest)
            made = 0
            positions = dict(manifest.positions)
            with closing(open_rewards(self.directory, settings["rewards"])) as rewards:
                stream = rewards.stream(follow=follow)
                chunks = stream.read(positions, max_rows=model.solver.strategy.population, stop=stop)
                with closing(self._updates(model, chunks, positions)) as updates:
                    for update in updates:
                        self._forward(stream)
                        model.rewards += update.used
                        manifest = model.commit(log, dict(positions), update)
                        self._publish(log, settings["publish"], manifest)
                        made += 1
                        if updated is not None:
                            updated(Progress(manifest.version, update, model.rewards))
                        if stop.is_set():
                            break
            return made

    def _updates(
        self, model: Model, chunks: Iterator[Chunk], positions: Positions
    ) -> Generator[Update, None, None]:
        """Yield each update when its rewards have come, with `positions` right behind the last of them."""
        solver = model.solver
        waiting = _Pending()
        for chunk in chunks:
            for reject in chunk.rejects:
                self._note(f"{reject.partition} at {reject.position}: {reject.reason} {reject.value}")
            keys, versions, rewards = read_rewards(chunk.batch)
            at = 0
            while at < len(keys):
                # Anew after each update, by which everything has become older.
                good = (solver.staleness(versions[at:]) >= 0) & np.isfinite(rewards[at:])
                missing = solver.strategy.population - waiting.count
                whole = np.flatnonzero(np.cumsum(good) == missing)
                rows = int(whole[0]) + 1 if len(whole) else len(good)
                chosen = at + np.flatnonzero(good[:rows])
                waiting.keys.append(keys[chosen])
                waiting.versions.append(versions[chosen])
                waiting.rewards.append(rewards[chosen])
                waiting.count += len(chosen)
                waiting.dropped += rows - len(chosen)
                positions.update(positions_after(slice_chunk(chunk, at, rows)))
                at += rows
                if waiting.count == solver.strategy.population:
                    told = [
                        np.concatenate(part) for part in (waiting.keys, waiting.rewards, waiting.versions)
                    ]
                    update = solver.tell(*told)
                    yield Update(update.used, update.stale, waiting.dropped, update.mean, update.best)
                    waiting = _Pending()
            if not len(keys):
                positions.update(positions_after(chunk))

    def _forward(self, stream: Stream) -> None:
        """Tell what the stream has to tell."""
        for note in take_notes(stream):
            self._note(note)

    def _publish(self, log: CheckpointLog, tag: str | None, manifest: Manifest) -> None:
        if tag is not None:
            try:
                log.publish(tag, manifest.version)
            except CheckpointError as error:
                self._note(f"tag {tag!r} cannot be moved to version {manifest.version}: {error}")

"""What was given to the learner, what of it is durable, and what must be before a partition is given up."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

from onstream.contracts import Positions

__all__ = ["Handover"]


class Handover:
    """Know how far each partition was given, learned and kept.

    Parameters
    ----------
    kept : Positions, optional
        What is durable when reading begins. None where nobody keeps anything, such as a program that only reads:
        then nothing is waited for and nothing is committed.

    Notes
    -----
    Used from three threads: the one that gives rows, the one that polls and gives partitions up, and the trainer's.
    """

    def __init__(self, kept: Positions | None) -> None:
        self.keeps = kept is not None
        self.released = False
        self._kept: Positions = dict(kept or {})
        self._began: Positions = {}
        self._given: Positions = {}
        self._awaited: Positions = {}
        self._changed = threading.Condition()

    def begin(self, partition: str, position: int) -> None:
        """Take note that a partition is read from `position` on."""
        self._began[partition] = self._given[partition] = position

    def gave(self, partition: str, position: int) -> None:
        """Take note that rows up to `position` are on their way to the learner."""
        self._given[partition] = position

    def given(self, partition: str) -> int | None:
        """Return how far a partition was given; None if it was never read."""
        return self._given.get(partition)

    def kept(self, positions: Positions) -> None:
        """Take note of what is durable."""
        with self._changed:
            self._kept = dict(positions)
            self._changed.notify_all()

    def durable(self, partitions: Collection[str]) -> Positions:
        """Return how far these partitions are durable, as far as they are."""
        kept = self._kept
        return {name: kept[name] for name in partitions if name in kept}

    def asks(self, positions: Positions) -> bool:
        """Return whether all that is awaited is learned, but not all of it durable."""
        awaited = self._awaited
        return (
            bool(awaited)
            and all(positions.get(name, 0) >= position for name, position in awaited.items())
            and not self._reached(awaited)
        )

    def wait(self, partitions: Collection[str], timeout_s: float) -> Mapping[str, int]:
        """Wait until all that was given of these partitions is durable.

        Returns
        -------
        mapping of str to int
            What is still not, when `timeout_s` have passed or the run is over: how many offsets, by partition.
        """
        if not self.keeps:
            return {}
        read = [name for name in partitions if name in self._given]
        awaited = {name: self._given[name] for name in read if self._given[name] > self._began[name]}
        with self._changed:
            self._awaited = awaited
            self._changed.wait_for(lambda: self._reached(awaited) or self.released, timeout_s)
            self._awaited = {}
            behind = {
                name: end - max(self._kept.get(name, 0), self._began[name]) for name, end in awaited.items()
            }
        return {name: offsets for name, offsets in behind.items() if offsets > 0}

    def release(self) -> None:
        """End all waiting: nothing more will be kept."""
        with self._changed:
            self.released = True
            self._changed.notify_all()

    def _reached(self, awaited: Positions) -> bool:
        return all(self._kept.get(name, -1) >= position for name, position in awaited.items())

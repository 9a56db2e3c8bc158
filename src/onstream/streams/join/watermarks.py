"""Watermarks: how far event time has come, by partition, input and join."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from onstream.streams.join.times import NEVER

__all__ = ["InputTime", "wanted", "watermark"]


@dataclass
class InputTime:
    """How far the event time of one input has come.

    Attributes
    ----------
    live : bool
        Whether it may be silent, so that its partitions may be idle.
    in_turn : bool
        Whether its partitions are read one after the other: one that follows ends the one before.
    newest : dict of str to int
        The newest event time of each partition that has not ended, in microseconds.
    heard : dict of str to float
        When something of a partition came last, in seconds of processing time.
    since : float
        When it was first waited for.
    ended : bool
    """

    live: bool
    in_turn: bool
    since: float
    newest: dict[str, int] = field(default_factory=dict)
    heard: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    def expect(self, partitions: Iterable[str], now: float) -> None:
        """Wait for partitions too from which nothing has come yet."""
        for name in partitions:
            if name not in self.newest:
                self.newest[name] = NEVER
                self.heard[name] = now

    def see(self, partition: str, newest: int, now: float) -> None:
        """Take in that a partition has come to an event time; NEVER if it gave none."""
        if self.in_turn and partition not in self.newest:
            self.newest.clear()
            self.heard.clear()
        self.newest[partition] = max(self.newest.get(partition, NEVER), newest)
        self.heard[partition] = now

    def excuse(self, now: float) -> None:
        """Begin to count its silence anew: it was not asked."""
        self.since = now
        self.excuse_partitions(self.heard, now)

    def excuse_partitions(self, partitions: Iterable[str], now: float) -> None:
        """Begin to count the silence of some partitions anew: they were held."""
        self.heard |= dict.fromkeys(partitions, now)

    def excuse_for(self, seconds: float) -> None:
        """Take some time off all silence: nobody listened meanwhile."""
        self.since += seconds
        self.heard = {name: heard + seconds for name, heard in self.heard.items()}

    def level(self, now: float, idle_s: float) -> int | None:
        """Return the event time that all its partitions have come to; None if it holds nothing back."""
        if self.ended:
            return None
        if not self.newest:
            return None if self._idle(self.since, now, idle_s) else NEVER
        busy = [time for name, time in self.newest.items() if not self._idle(self.heard[name], now, idle_s)]
        return min(busy) if busy else None

    def ahead_of(self, time: int) -> frozenset[str]:
        """Return the partitions that are beyond an event time."""
        return frozenset(name for name, newest in self.newest.items() if newest > time)

    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint must keep."""
        return dict(self.newest)

    def load(self, facts: dict[str, Any], now: float) -> None:
        """Go on from `facts`; whoever was silent is given time anew."""
        self.newest |= {name: int(time) for name, time in facts.items()}
        self.heard = dict.fromkeys(self.newest, now)

    def _idle(self, heard: float, now: float, idle_s: float) -> bool:
        return self.live and now - heard >= idle_s


def watermark(inputs: list[InputTime], now: float, idle_s: float, lateness: int) -> int | None:
    """Return the event time that every input has come to, less `lateness`; None if nothing can be said."""
    levels = [level for each in inputs if (level := each.level(now, idle_s)) is not None]
    if not levels and all(each.ended for each in inputs):
        levels = [max((time for each in inputs for time in each.newest.values()), default=NEVER)]
    if not levels or min(levels) == NEVER:
        return None
    return min(levels) - lateness


def wanted(inputs: list[InputTime], now: float, idle_s: float, drift: int) -> list[int]:
    """Return which inputs to read from, the one that is furthest behind first.

    Notes
    -----
    Inputs that are never silent are read strictly in the order of their event times, so that what is read does
    not depend on how fast they are. Of those that may be silent, none is read that is `drift` ahead.
    """
    levels = {
        i: NEVER if (level := each.level(now, idle_s)) is None else level
        for i, each in enumerate(inputs)
        if not each.ended
    }
    if not levels:
        return []
    order = sorted(levels, key=lambda i: (levels[i], i))
    if not any(inputs[i].live for i in levels):
        return order[:1]
    busy = [levels[i] for i in levels if inputs[i].level(now, idle_s) is not None]
    lowest = min(busy, default=NEVER)
    return [i for i in order if levels[i] <= lowest + drift or levels[i] == NEVER]

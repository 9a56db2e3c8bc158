"""Where partitions end, as the broker says with every fetch."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from onstream.contracts import Positions
from onstream.streams.kafka.client import topic_partition

if TYPE_CHECKING:
    from confluent_kafka import Consumer

__all__ = ["Ends"]

_EVERY_S = 0.5


class Ends:
    """The offsets after the newest messages of partitions: as the broker said last, and as it said first.

    Notes
    -----
    Looking is done in the thread that polls: calls of the consumer wait for each other, and that thread hardly ever
    pauses.
    """

    def __init__(self) -> None:
        self._newest: Positions = {}
        self._first: Positions = {}
        self._due = 0.0

    def look(self, consumer: Consumer, partitions: Collection[str], *, at_once: bool = False) -> None:
        """Keep what the broker said of these partitions, now and then or at once; of new ones always."""
        due = at_once or time.monotonic() >= self._due
        if due:
            self._due = time.monotonic() + _EVERY_S
        for name in partitions if due else set(partitions) - self._first.keys():
            _, end = consumer.get_watermark_offsets(topic_partition(name), cached=True)
            if end >= 0:
                self._newest[name] = end
                self._first.setdefault(name, end)

    def newest(self, partition: str) -> int | None:
        """Return the end that the broker said last, None before it said any."""
        return self._newest.get(partition)

    def first(self, partition: str) -> int | None:
        """Return the end that the broker said first, None before it said any."""
        return self._first.get(partition)

"""Telling a group how far its partitions are learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from onstream.contracts import Positions
from onstream.streams.kafka.client import name_of, topic_partition

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

__all__ = ["Commits"]

_AGAIN_S = 1.0


class Commits:
    """Know what a group has committed, and commit what is news.

    Parameters
    ----------
    group : str or None
        Without one, nothing is committed.
    note : callable
        Receives a sentence when commits begin to fail.

    Notes
    -----
    All is called in the thread that polls.
    """

    def __init__(self, group: str | None, note: Callable[[str], None]) -> None:
        self._group = group
        self._note = note
        self._committed: Positions = {}
        self._failing = False
        self._due = 0.0

    def find(self, consumer: Consumer, partitions: Sequence[str], timeout_s: float) -> Positions:
        """Return what the group has committed of these partitions, which may be less than all of them.

        Raises
        ------
        confluent_kafka.KafkaException
            If the broker does not answer.
        """
        from confluent_kafka import KafkaException

        found = {}
        for answer in consumer.committed([topic_partition(p) for p in partitions], timeout=timeout_s):
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset >= 0:
                found[name_of(answer.topic, answer.partition)] = answer.offset
        self._committed |= found
        return found

    def make(self, consumer: Consumer, positions: Positions, *, wait: bool) -> None:
        """Commit these positions where they are news; with `wait`, return when the broker has them or refuses."""
        if self._group is None or not (wait or time.monotonic() >= self._due):
            return
        news = {name: at for name, at in positions.items() if at > self._committed.get(name, -1)}
        if not news:
            return
        from confluent_kafka import KafkaException

        offsets = [topic_partition(name, at) for name, at in news.items()]
        try:
            if wait:
                consumer.commit(offsets=offsets, asynchronous=False)
            else:
                consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self.heard(error.args[0], [])
        else:
            self._committed |= news

    def heard(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Tell of the first commit that fails, and let them be tried again after a while."""
        failed = [place for place in offsets if error is not None or place.error is not None]
        for place in failed:
            self._committed.pop(name_of(place.topic, place.partition), None)
        error = error or (failed[0].error if failed else None)
        if error is not None:
            self._due = time.monotonic() + _AGAIN_S
            if not self._failing:
                self._note(f"Kafka: group {self._group!r} could not commit: {error.str()} ({error.name()})")
        self._failing = error is not None

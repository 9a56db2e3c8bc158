"""One run of reading: from what the poller fetches to chunks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from onstream.contracts import Chunk, Positions
from onstream.streams.chunks import inner_name, skip_to
from onstream.streams.kafka.decode import by_partition, chunks_of
from onstream.streams.kafka.fetched import Ended, Fetched, Messages
from onstream.streams.kafka.handover import Handover
from onstream.streams.kafka.offsets import Begin
from onstream.streams.kafka.poller import Poller

if TYPE_CHECKING:
    from confluent_kafka import Message

    from onstream.streams.kafka.stream import Kafka

__all__ = ["Reading"]

_TAKE_S = 0.1

# A format without a schema infers it from its first messages: they should be many, but not be waited for long.
_SAMPLE_MESSAGES = 1000
_SAMPLE_S = 1.0


class Reading:
    """Read a stream from some positions on.

    Parameters
    ----------
    stream : Kafka
    positions : Positions
    kept : Positions or None
        As `Handover` takes it.
    max_rows : int
        Of a chunk.
    note, find : callable
        As `Poller` takes them.
    """

    def __init__(
        self,
        stream: Kafka,
        positions: Positions,
        kept: Positions | None,
        max_rows: int,
        note: Callable[[str], None],
        find: Callable[[Sequence[str]], Positions] | None = None,
    ) -> None:
        self._stream = stream
        self._max_rows = max_rows
        self._one_topic = len(stream.topics) == 1 and not stream.topics[0].startswith("^")
        self._handover = Handover(kept)
        self._fetched = Fetched(max_rows)
        self._before = dict(positions)
        self._here: Positions = {}
        self._began: Positions = {}
        self._inside: dict[str, tuple[int, int]] = {}
        self._not_before: dict[str, int] = {}
        self._until: Positions = {}
        self._done: set[str] = set()
        self._poller = Poller(stream, positions, self._fetched, self._handover, note, find)

    def chunks(self, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks until the end, or until `stop` is set."""
        try:
            if not self._stream.format.schema().names:
                self._fetched.wait_for_messages(min(_SAMPLE_MESSAGES, self._max_rows), _SAMPLE_S)
            while not stop.is_set() and not self._finished():
                event = self._fetched.take(_TAKE_S)
                if isinstance(event, Messages):
                    yield from self._decoded(event.items)
                elif isinstance(event, Begin):
                    yield from self._begun(event)
                elif event is not None:
                    yield from self._ended(event)
        finally:
            # A member of a group stays one until what it was given is durable, or never will be.
            if self._handover.keeps and self._stream.group is not None:
                self._poller.idle()
            else:
                self._poller.close()

    @property
    def own(self) -> Collection[str]:
        """The partitions that are read."""
        return self._poller.own

    @property
    def stalled(self) -> bool:
        """Whether partitions are paused because nothing is taken."""
        return self._poller.stalled

    @property
    def member(self) -> object | None:
        """The newest membership of the group."""
        return self._poller.member

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more is fetched, before it is raised; None as long as all is well."""
        return self._poller.died_of

    def hold(self, partitions: Collection[str]) -> None:
        """Give nothing of these partitions, until the next call."""
        self._poller.hold(partitions)

    def kept(self, positions: Positions) -> None:
        """Take note of what is durable."""
        self._handover.kept(positions)

    def asks(self, positions: Positions) -> bool:
        """Return whether a checkpoint is wanted now."""
        return self._handover.asks(positions)

    def behind(self, positions: Positions) -> int | None:
        """Return how many messages lie after `positions`, in partitions whose end is known; None if none is."""
        ends = {name: self._poller.ends.newest(name) for name in tuple(self._began)}
        known = {name: end for name, end in ends.items() if end is not None}
        if not known:
            return None
        return sum(max(0, end - positions.get(name, self._began[name])) for name, end in known.items())

    def close(self) -> None:
        """Commit what is durable, and let go of the consumer."""
        self._poller.close()

    def _finished(self) -> bool:
        return self._stream.end == "now" and self._poller.settled and self._poller.own <= self._done

    def _begun(self, begin: Begin) -> Iterator[Chunk]:
        """Turn to a partition that was taken, or moved on by retention."""
        name, offset = begin.partition, begin.offset
        self._here[name] = self._began[name] = offset
        self._done.discard(name)
        rows = self._before.get(inner_name(name), 0)
        if self._before.get(name) == offset and rows:
            self._inside[name] = offset, rows
        if begin.not_before_ms is not None:
            self._not_before[name] = begin.not_before_ms
        # Where reading begins is part of the positions, so that going on does not depend on `start` again.
        elif self._before.get(name) != offset or begin.rejects:
            yield skip_to(name, offset, begin.rejects)

    def _ended(self, ended: Ended) -> Iterator[Chunk]:
        """Move on to the end of a partition, behind marks of transactions."""
        name, offset = ended.partition, ended.offset
        self._done.add(name)
        if name in self._here and self._here[name] < offset and name not in self._not_before:
            self._here[name] = offset
            self._handover.gave(name, offset)
            yield skip_to(name, offset)

    def _decoded(self, messages: list[Message]) -> Iterator[Chunk]:
        parts = {}
        for name, part in by_partition(messages, one_topic=self._one_topic).items():
            if wanted := self._wanted(name, part):
                parts[name] = wanted
        if not parts:
            return
        stream = self._stream
        inside = {name: self._inside.pop(name) for name in parts if name in self._inside}
        for chunk in chunks_of(parts, stream.format, stream.metadata, inside, self._max_rows):
            self._here[chunk.partition] = chunk.next
            self._handover.gave(chunk.partition, chunk.next)
            yield chunk

    def _wanted(self, name: str, messages: list[Message]) -> list[Message]:
        """Return which of a partition's messages to give."""
        here = self._here.get(name, 0)
        if (messages[0].offset() or 0) < here:
            # Fetched twice, as may be when a connection was lost or a partition paused.
            messages = [m for m in messages if (m.offset() or 0) >= here]
        if name in self._not_before:
            since = self._not_before[name]
            first = next((i for i, m in enumerate(messages) if m.timestamp()[1] >= since), len(messages))
            messages = messages[first:]
            if messages:
                del self._not_before[name]
        return self._bounded(name, messages) if self._stream.end == "now" and messages else messages

    def _bounded(self, name: str, messages: list[Message]) -> list[Message]:
        """Return the messages that were there when the first of the partition came."""
        if name in self._done:
            return []
        if name not in self._until:
            end = self._poller.ends.first(name)
            if end is None:
                return messages
            self._until[name] = end
        until = self._until[name]
        if (messages[-1].offset() or 0) + 1 >= until:
            self._done.add(name)
        return [m for m in messages if (m.offset() or 0) < until]

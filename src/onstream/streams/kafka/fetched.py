"""What was fetched and waits to be decoded: bounded, and emptied of partitions that are given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from onstream.streams.kafka.client import name_of
from onstream.streams.kafka.offsets import Begin

if TYPE_CHECKING:
    from confluent_kafka import Message

__all__ = ["Ended", "Fetched", "Messages"]

_MOST_BYTES = 64 << 20
_FIRST_GUESS_BYTES = 1 << 10


@dataclass(frozen=True, slots=True)
class Ended:
    """A partition has no message between those before and `offset` (which may lie behind marks of transactions)."""

    partition: str
    offset: int


@dataclass
class Messages:
    """Messages in the order in which they came, of any partitions."""

    items: list[Message] = field(default_factory=list)
    size_bytes: int = 0


Event: TypeAlias = Messages | Begin | Ended


class Fetched:
    """A queue from the thread that polls to the thread that decodes.

    Parameters
    ----------
    max_messages : int
        That are taken at once. Twice as many may wait, or 64 MiB of them.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self._events: deque[Event] = deque()
        self._num_messages = 0
        self._size_bytes = 0
        self._mean_bytes = float(_FIRST_GUESS_BYTES)
        self._held: frozenset[str] = frozenset()
        self._changed = threading.Condition()
        self._taken: Event | None = None
        self._closed = False
        self._error: BaseException | None = None

    @property
    def room(self) -> int:
        """How many messages of the usual size may be added now."""
        by_bytes = int((_MOST_BYTES - self._size_bytes) / self._mean_bytes)
        return max(0, min(self._max_messages, 2 * self._max_messages - self._num_messages, by_bytes))

    def wait_for_room(self, timeout_s: float) -> bool:
        """Return whether there is room, waiting for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self.room > 0 or self._closed, timeout_s)

    def wait_for_messages(self, num_messages: int, timeout_s: float) -> None:
        """Return when so many wait, when every partition has come to its end, or after `timeout_s`."""

        def enough() -> bool:
            ended = {e.partition for e in self._events if isinstance(e, Ended)}
            begun = {e.partition for e in self._events if isinstance(e, Begin)}
            all_ended = bool(begun) and ended == begun
            return self._closed or self._error is not None or self._num_messages >= num_messages or all_ended

        with self._changed:
            self._changed.wait_for(enough, timeout_s)

    def put(self, messages: list[Message]) -> None:
        """Add messages; there is always room for what was fetched."""
        size_bytes = sum(map(len, messages))
        with self._changed:
            self._mean_bytes = max(1.0, size_bytes / len(messages))
            self._num_messages += len(messages)
            self._size_bytes += size_bytes
            self._events.append(Messages(messages, size_bytes))
            self._changed.notify_all()

    def tell(self, event: Begin | Ended) -> None:
        """Add word of a partition."""
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let `take` raise an error, once all before it is taken."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Event | None:
        """Return what came next, joined to what `max_messages` allow; None if nothing came within `timeout_s`.

        What was taken before counts as done.
        """
        with self._changed:
            self._taken = None
            self._changed.notify_all()
            self._changed.wait_for(self._ready, timeout_s)
            if self._closed:
                return None
            if not self._ready():
                return None
            self._taken = self._next()
            if self._taken is None and self._error is not None:
                error, self._error = self._error, None
                raise error
            self._changed.notify_all()
            return self._taken

    def done(self) -> None:
        """Say that what was taken last is done with."""
        with self._changed:
            self._taken = None
            self._changed.notify_all()

    def hold(self, partitions: Collection[str]) -> None:
        """Keep back what is of these partitions, until the next call."""
        with self._changed:
            self._held = frozenset(partitions)
            self._changed.notify_all()

    def drop(self, partitions: Collection[str], timeout_s: float) -> bool:
        """Forget what waits of these partitions; return whether none of them is being decoded any more."""
        gone = frozenset(partitions)
        with self._changed:
            events, self._events = self._events, deque()
            for event in events:
                if (left := _without(event, gone)) is not None:
                    self._events.append(left)
            self._count()
            taken = self._taken
            return self._changed.wait_for(
                lambda: taken is None or self._taken is not taken or self._closed, timeout_s
            )

    def close(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._closed = True
            self._events.clear()
            self._changed.notify_all()

    def _ready(self) -> bool:
        return bool(
            self._closed or self._error is not None or any(not self._is_held(e) for e in self._events)
        )

    def _is_held(self, event: Event) -> bool:
        """Return whether nothing of an event may be taken now."""
        if not self._held:
            return False
        return _without(event, self._held) is None

    def _next(self) -> Event | None:
        """Take the first events that are not held: one word, or messages up to the limit."""
        kept: deque[Event] = deque()
        joined: Messages | None = None
        while self._events:
            event = self._events.popleft()
            if self._held:
                aside, event_left = _parts(event, self._held)
                if aside is not None:
                    kept.append(aside)
                if event_left is None:
                    continue
                event = event_left
            if not isinstance(event, Messages):
                if joined is not None:
                    self._events.appendleft(event)
                    break
                self._events.extendleft(reversed(kept))
                return event
            if joined is None:
                joined = event
            elif len(joined.items) + len(event.items) <= self._max_messages:
                joined = Messages(joined.items + event.items, joined.size_bytes + event.size_bytes)
            else:
                self._events.appendleft(event)
                break
        self._events.extendleft(reversed(kept))
        self._count()
        return joined

    def _count(self) -> None:
        waiting = [event for event in self._events if isinstance(event, Messages)]
        self._num_messages = sum(len(event.items) for event in waiting)
        self._size_bytes = sum(event.size_bytes for event in waiting)


def _parts(event: Event, partitions: frozenset[str]) -> tuple[Event | None, Event | None]:
    """Return what of an event is of `partitions`, and what is not."""
    if not isinstance(event, Messages):
        return (event, None) if event.partition in partitions else (None, event)
    inside = [name_of(m.topic() or "", m.partition() or 0) in partitions for m in event.items]
    if not any(inside):
        return None, event
    if all(inside):
        return event, None
    chosen = [m for m, is_in in zip(event.items, inside, strict=True) if is_in]
    others = [m for m, is_in in zip(event.items, inside, strict=True) if not is_in]
    return Messages(chosen, sum(map(len, chosen))), Messages(others, sum(map(len, others)))


def _without(event: Event, partitions: frozenset[str]) -> Event | None:
    """Return an event without what is of `partitions`."""
    return _parts(event, partitions)[1]

"""What was fetched and waits to be decoded: bounded, and emptied of partitions that are given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from onstream.contracts import Positions
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


class _Waiting(deque[Event]):
    """Events in their order, and how many messages and bytes they are."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        super().__init__()
        self.num_messages = self.size_bytes = 0
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        super().append(event)
        if isinstance(event, Messages):
            self.num_messages += len(event.items)
            self.size_bytes += event.size_bytes

    def popleft(self) -> Event:
        event = super().popleft()
        if isinstance(event, Messages):
            self.num_messages -= len(event.items)
            self.size_bytes -= event.size_bytes
        return event

    def exceeds(self, max_messages: int) -> bool:
        """Return whether these are more messages than that, or too many bytes."""
        return self.num_messages > max_messages or self.size_bytes > _MOST_BYTES


class Fetched:
    """A queue from the thread that polls to the thread that decodes.

    Parameters
    ----------
    max_messages : int
        That are taken at once. Twice as many may wait, or 64 MiB of them.

    Notes
    -----
    What is of held partitions lies aside and takes no room from the others, which would otherwise not be fetched, and
    might be what the held ones are held for. As much again may lie there; `shed` forgets what is beyond.
    """

    def __init__(self, max_messages: int) -> None:
        self._max_messages = max_messages
        self._events = _Waiting()
        self._mean_bytes = float(_FIRST_GUESS_BYTES)
        # Invariant: all of a held partition is in `_aside`, and nothing there is of another.
        self._held: frozenset[str] = frozenset()
        self._aside = _Waiting()
        self._changed = threading.Condition()
        self._taken: Event | None = None
        self._closed = False
        self._error: BaseException | None = None

    def wait_for_room(self, timeout_s: float) -> int:
        """Return how many messages of the usual size may be added, waiting for room; 0 if there is none."""
        with self._changed:
            self._changed.wait_for(lambda: self._room > 0 or self._closed, timeout_s)
            return 0 if self._closed else self._room

    def wait_for_messages(self, num_messages: int, timeout_s: float) -> None:
        """Return when so many wait, when every partition has come to its end, or after `timeout_s`."""

        def enough() -> bool:
            ended = {e.partition for e in self._events if isinstance(e, Ended)}
            begun = {e.partition for e in self._events if isinstance(e, Begin)}
            all_ended = bool(begun) and ended == begun
            return (
                self._closed
                or self._error is not None
                or self._events.num_messages >= num_messages
                or all_ended
            )

        with self._changed:
            self._changed.wait_for(enough, timeout_s)

    def put(self, messages: list[Message]) -> None:
        """Add messages; there is always room for what was fetched."""
        size_bytes = sum(map(len, messages))
        with self._changed:
            self._mean_bytes = max(1.0, size_bytes / len(messages))
            self._add(Messages(messages, size_bytes))

    def tell(self, event: Begin | Ended) -> None:
        """Add word of a partition."""
        with self._changed:
            self._add(event)

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
            # What lay aside is older than all else of its partition.
            events = [*self._aside, *self._events]
            self._events, self._aside = _Waiting(), _Waiting()
            for event in events:
                self._place(event)
            self._changed.notify_all()

    def shed(self) -> Positions:
        """Forget what lies aside beyond its bound.

        Returns
        -------
        Positions
            By partition, the offset of the first message that was forgotten: it is to be fetched again from there.
        """
        with self._changed:
            limit = 2 * self._max_messages
            if not self._aside.exceeds(limit):
                return {}
            events, self._aside = self._aside, _Waiting()
            tried = _Waiting()
            cut: Positions = {}
            for event in events:
                # Whatever of a partition comes after a gap would hide it.
                left = _without(event, frozenset(cut))
                if left is None:
                    continue
                tried.append(left)
                if isinstance(left, Messages) and tried.exceeds(limit):
                    cut |= _firsts(left)
                else:
                    self._aside.append(left)
            return cut

    def drop(self, partitions: Collection[str], timeout_s: float) -> bool:
        """Forget what waits of these partitions; return whether none of them is being decoded any more."""
        gone = frozenset(partitions)
        with self._changed:
            self._events = _Waiting(left for e in self._events if (left := _without(e, gone)) is not None)
            self._aside = _Waiting(left for e in self._aside if (left := _without(e, gone)) is not None)
            taken = self._taken
            return self._changed.wait_for(
                lambda: taken is None or self._taken is not taken or self._closed, timeout_s
            )

    def close(self) -> None:
        """Wake whoever waits; nothing more is given or taken in."""
        with self._changed:
            self._closed = True
            self._events, self._aside = _Waiting(), _Waiting()
            self._changed.notify_all()

    @property
    def _room(self) -> int:
        by_bytes = int((_MOST_BYTES - self._events.size_bytes) / self._mean_bytes)
        return max(0, min(self._max_messages, 2 * self._max_messages - self._events.num_messages, by_bytes))

    def _add(self, event: Event) -> None:
        if not self._closed:
            self._place(event)
        self._changed.notify_all()

    def _place(self, event: Event) -> None:
        """Put an event behind the others, or what of it is held."""
        aside, left = _parts(event, self._held) if self._held else (None, event)
        if aside is not None:
            self._aside.append(aside)
        if left is not None:
            self._events.append(left)

    def _ready(self) -> bool:
        return bool(self._closed or self._error is not None or self._events)

    def _next(self) -> Event | None:
        """Take the first events: one word, or messages up to the limit."""
        joined: Messages | None = None
        while self._events:
            event = self._events[0]
            if not isinstance(event, Messages):
                if joined is not None:
                    break
                return self._events.popleft()
            if joined is None:
                joined = event
            elif len(joined.items) + len(event.items) <= self._max_messages:
                joined = Messages(joined.items + event.items, joined.size_bytes + event.size_bytes)
            else:
                break
            self._events.popleft()
        return joined


def _firsts(messages: Messages) -> Positions:
    """Return the first offset of each partition."""
    found: Positions = {}
    for message in messages.items:
        found.setdefault(name_of(message.topic() or "", message.partition() or 0), message.offset() or 0)
    return found


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

"""Running an iterator ahead of whoever uses its items, in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import TracebackType
from typing import Final, Generic, Literal, Protocol, Self, TypeVar

__all__ = ["END", "Ahead", "End", "Takes"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_JOIN_S = 5.0


class End(Enum):
    """The type of `END`."""

    END = "end"


END: Final = End.END
"""What `take` returns once there are no more items."""


class Takes(Protocol[T_co]):
    """Something that gives items one by one and can wait for the next with a time limit."""

    def take(self, timeout_s: float | None = None) -> T_co | Literal[End.END] | None:
        """Return the next item, None if none came within `timeout_s`, or `END`."""


class Ahead(Generic[T]):
    """Run an iterator ahead, so that reading, decoding and learning overlap.

    Parameters
    ----------
    items : iterable, or callable that returns one
        Used in the background thread only.
    depth : int
        How many items may wait; with one more in the making, this bounds the memory.
    stop : threading.Event, optional
        Set by `close`, so that a source that waits for more returns.
    change : threading.Condition, optional
        Notified of whatever happens; shared by several, it lets one thread wait for any of them.

    Notes
    -----
    Items come in order. An error of the iterator is raised, with its traceback, after the items before it.
    One thread at a time may take items; any thread may close.

    Examples
    --------
    >>> with Ahead(range(3), depth=2) as items:
    ...     list(items)
    [0, 1, 2]
    """

    def __init__(
        self,
        items: Iterable[T] | Callable[[], Iterable[T]],
        *,
        depth: int,
        stop: threading.Event | None = None,
        change: threading.Condition | None = None,
    ) -> None:
        """Start the thread."""
        assert depth >= 1
        self._items = items
        self._depth = depth
        self._stop = stop
        self._ready: deque[T] = deque()
        self._change = change or threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="onstream-ahead", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether `take` would return something at once."""
        return bool(self._ready) or self._ended or self._closed

    def take(self, timeout_s: float | None = None) -> T | Literal[End.END] | None:
        """Return the next item, None if none came within `timeout_s` seconds, or `END`.

        Without `timeout_s`, wait as long as it takes. An error of the iterator is raised once.
        """
        with self._change:
            self._change.wait_for(lambda: self.ready, timeout_s)
            if self._closed:
                return END
            if self._ready:
                item = self._ready.popleft()
                self._change.notify_all()
                return item
            if not self._ended:
                return None
            error, self._error = self._error, None
        if error is not None:
            raise error
        return END

    def close(self) -> None:
        """Stop the thread and drop what waits. Repeated calls do nothing.

        Returns when the iterator has been closed, or after 5 s if it is busy and does not heed `stop`.
        """
        if self._stop is not None:
            self._stop.set()
        with self._change:
            self._closed = True
            self._ready.clear()
            self._change.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_S)

    def __iter__(self) -> Iterator[T]:
        """Return itself."""
        return self

    def __next__(self) -> T:
        """Return the next item, waiting as long as it takes."""
        item = self.take()
        if item is END:
            raise StopIteration
        # Without a time limit, an item or END is certain; None here is an item.
        return item  # type: ignore[return-value]

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _run(self) -> None:
        """Fill the queue, until the items end or `close` is called."""
        try:
            iterator = iter(self._items() if callable(self._items) else self._items)
            try:
                for item in iterator:
                    with self._change:
                        self._change.wait_for(lambda: self._closed or len(self._ready) < self._depth)
                        if self._closed:
                            return
                        self._ready.append(item)
                        self._change.notify_all()
            finally:
                # A generator holds files open; they are closed here, in the thread that opened them.
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as error:
            self._error = error
        finally:
            with self._change:
                self._ended = True
                self._change.notify_all()

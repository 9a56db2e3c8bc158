"""Open Flight streams: how many there may be, and how they come to an end."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from onstream.errors import UnavailableError

__all__ = ["Streams", "Until", "cut_connections"]

_GOING = "the server is going away; ask again"


class Streams:
    """The open streams of a server, each of which holds a thread.

    Parameters
    ----------
    limit : int
        What would be one more is refused at once.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.draining = threading.Event()
        self.ended = threading.Event()
        self._open = 0
        self._working = 0
        self._change = threading.Condition()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold one of the places. Raises UnavailableError."""
        with self._change:
            self.check()
            if self._open >= self.limit:
                raise UnavailableError(f"{self.limit} streams are open, which is the limit; ask again")
            self._open += 1
        try:
            yield
        finally:
            with self._change:
                self._open -= 1
                self._change.notify_all()

    @contextmanager
    def work(self) -> Iterator[None]:
        """Work on one batch, which is waited for when the server goes away. Raises UnavailableError."""
        with self._change:
            self.check()
            self._working += 1
        try:
            yield
        finally:
            with self._change:
                self._working -= 1
                self._change.notify_all()

    def check(self) -> None:
        """Raise UnavailableError if nothing new is begun any more."""
        if self.draining.is_set():
            raise UnavailableError(_GOING)

    def drain(self, bound_s: float) -> bool:
        """Let nothing new begin; return whether all that was in work ended within `bound_s`."""
        with self._change:
            self.draining.set()
            return self._change.wait_for(lambda: not self._working, bound_s)


class Until(threading.Event):
    """An event that is also set once `gone` returns true, for those who look often."""

    def __init__(self, *events: threading.Event, gone: Callable[[], bool]) -> None:
        super().__init__()
        self._events = events
        self._gone = gone

    def is_set(self) -> bool:
        """Return whether it is time to stop."""
        return super().is_set() or any(event.is_set() for event in self._events) or self._gone()


def cut_connections(port: int) -> int:
    """Shut down the connections that this process accepted on a port; return how many there were.

    A thread that waits for the next message of a client cannot be stopped by gRPC's server as Flight wraps it:
    its shutdown waits for the client. To a client this looks as if the network had failed, which it must be
    ready for anyway: it gets UNAVAILABLE.
    """
    cut = 0
    for name in os.listdir("/dev/fd"):  # noqa: PTH208
        # No descriptor may be copied and closed here: to close any descriptor of a file ends the locks that this
        # process holds on it, which SQLite's logs rely on.
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            found = socket.socket(fileno=int(name))
        except OSError:
            continue
        try:
            if found.family in (socket.AF_INET, socket.AF_INET6):
                found.getpeername()  # not for the one that listens
                if found.getsockname()[1] == port:
                    found.shutdown(socket.SHUT_RDWR)
                    cut += 1
        except OSError:
            continue
        finally:
            found.detach()
    return cut

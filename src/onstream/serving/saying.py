"""Lines that are said to whoever reads them, and wait for nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque

__all__ = ["LoggedAside", "Saying"]

_DEPTH = 256
_CLOSE_S = 1.0


class Saying:
    """Write lines to a pipe or file; whoever says them never waits, even if nobody reads.

    Parameters
    ----------
    descriptor : int
        Where lines go; it is not closed.
    depth : int
        Lines that may wait. When there are more, the oldest are left out, and a line says how many.

    Notes
    -----
    A thread of its own writes, straight to the descriptor: a thread that is stuck within `sys.stdout` would hold
    its lock, which the end of the process needs.
    """

    def __init__(self, descriptor: int, *, depth: int = _DEPTH) -> None:
        """Start the thread."""
        self._descriptor = descriptor
        self._lines: deque[str] = deque(maxlen=depth)
        self._status: str | None = None
        self._lost = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write_all, name="onstream-saying", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Have a line written."""
        with self._changed:
            self._lost += len(self._lines) == self._lines.maxlen
            self._lines.append(text)
            self._changed.notify()

    def status(self, text: str) -> None:
        """Have a line written, in the place of an older status that waits still."""
        with self._changed:
            self._status = text
            self._changed.notify()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what is left, if that takes no longer than `timeout_s`. Closing again does nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        # Who has gone away misses nothing.
        with contextlib.suppress(OSError):
            while text := self._next():
                left = memoryview(text.encode(errors="replace"))
                while left:
                    left = left[os.write(self._descriptor, left) :]

    def _next(self) -> str:
        """Return what waits, once something does; nothing when all is said and it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._status is not None or self._closed)
            lines = list(self._lines)
            if self._lost:
                lines.insert(0, f"({self._lost} lines were left out here: nobody read them in time)")
            if self._status is not None:
                lines.append(self._status)
            self._lines.clear()
            self._status = None
            self._lost = 0
        return "".join(f"{line}\n" for line in lines)


class LoggedAside(logging.Handler):
    """Have records of `logging` said, so that no thread that logs one waits for who reads it."""

    def __init__(self, saying: Saying) -> None:
        """Take where they are said."""
        super().__init__()
        self._saying = saying

    def emit(self, record: logging.LogRecord) -> None:
        """Have a record written."""
        self._saying.say(self.format(record))

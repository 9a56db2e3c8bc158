"""One JSON line for each request, written off the way of the requests."""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from io import FileIO
from pathlib import Path

from onstream.errors import JobError

__all__ = ["AccessLog"]

_log = logging.getLogger(__name__)

_DEPTH = 100_000
_CLOSE_S = 2.0
_STANDARD_ERROR = 2
# Lines of one write at most.
_JOINED = 256


class AccessLog:
    """Write one JSON line for each request.

    Parameters
    ----------
    path : path or "-"
        Appended to; "-" is standard error.

    Raises
    ------
    JobError
        If the file cannot be opened.

    Notes
    -----
    A line has "time" (seconds since 1970, of the answer), "wire", "model" (null where none was asked for
    predictions), "status", "rows" and "microseconds". Lines are written by a thread of their own. Those that a
    slow disk has no time for are left out, and a line {"time", "lost"} says how many.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "access.log"
    >>> log = AccessLog(path)
    >>> log.observe("rest", "clicks", "ok", 0.000312, 100)
    >>> log.close()
    >>> path.read_text().partition(", ")[2]
    '"wire": "rest", "model": "clicks", "status": "ok", "rows": 100, "microseconds": 312}\\n'
    """

    def __init__(self, path: str | Path, *, depth: int = _DEPTH) -> None:
        """Open the file and start the thread."""
        try:
            self._file = _opened(path)
        except OSError as error:
            raise JobError(f"the access log {str(path)!r} cannot be written: {error.strerror}") from error
        self._queue: queue.Queue[tuple[float, str, str, str, float, int] | None] = queue.Queue(depth)
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="onstream-access-log", daemon=True)
        self._thread.start()

    def observe(self, wire: str, model: str, status: str, seconds: float, rows: int) -> None:
        """Have a line written; the wires call this."""
        try:
            self._queue.put_nowait((time.time(), wire, model, status, seconds, rows))
        except queue.Full:
            self._lost += 1

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what is left, if that takes no longer than `timeout_s`. Closing again does nothing."""
        end = time.monotonic() + timeout_s
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=timeout_s)
            except queue.Full:
                return
            self._thread.join(max(0.0, end - time.monotonic()))

    def _write_all(self) -> None:
        # It is closed by who writes: to close it from outside would wait for a write that is stuck.
        try:
            self._write_entries()
        finally:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write_entries(self) -> None:
        told = 0
        lines: list[str] = []
        while (entry := self._queue.get()) is not None:
            at, wire, model, status, seconds, rows = entry
            facts = {"time": round(at, 6), "wire": wire, "model": model or None, "status": status}
            lines.append(json.dumps({**facts, "rows": rows, "microseconds": round(seconds * 1e6)}))
            if self._lost > told:
                lines.append(json.dumps({"time": round(at, 6), "lost": self._lost - told}))
                told = self._lost
            if self._queue.empty() or len(lines) >= _JOINED:
                self._put(lines)
        self._put(lines)

    def _put(self, lines: list[str]) -> None:
        # Whole lines at once: other processes may append to the same file.
        left = memoryview("".join(f"{line}\n" for line in lines).encode())
        lines.clear()
        try:
            while left:
                written = self._file.write(left)
                if written is None:
                    raise BlockingIOError("who should read it does not")
                left = left[written:]
        except OSError:
            _log.exception("the access log cannot be written")


def _opened(path: str | Path) -> FileIO:
    if str(path) != "-":
        return FileIO(path, "a")
    # Not `sys.stderr`: a thread that is stuck within that holds its lock, which the end of the process needs.
    return FileIO(_STANDARD_ERROR, "a", closefd=False)

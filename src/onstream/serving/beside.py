"""A server in a process of its own, beside one that trains."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from onstream.errors import JobError

__all__ = ["STATUS", "Beside", "Status"]

Status: TypeAlias = dict[str, float]
"""Numbers that a server tells of itself, by name."""

STATUS = "status: "
"""What a line begins with that is told to a parent process: JSON follows."""

_KEPT_LINES = 20
_RESTART_AFTER_S = 1.0


class Beside:
    """Run a server beside this process, and start it again if it dies.

    Parameters
    ----------
    command : sequence of str
        What starts it. It must end when its standard input does, so that it never outlives this process.
    drain_s : float
        How long it may take to end.

    Notes
    -----
    A process of its own does not share this one's interpreter: neither waits for the other, and either may die.
    """

    def __init__(self, command: Sequence[str], *, drain_s: float) -> None:
        self._command = list(command)
        self._note: Callable[[str], None] = lambda _: None
        self._drain_s = drain_s
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._status: Status = {}
        self._listening = threading.Event()
        self._ending = threading.Event()
        self._restarting = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @contextmanager
    def running(self, note: Callable[[str], None]) -> Iterator[None]:
        """Run it: it listens when the block begins, and has finished what it began when the block has ended.

        Parameters
        ----------
        note : callable
            Receives each line that it says.

        Raises
        ------
        JobError
            If it ends before it listens; the message is what it said.
        """
        self._note = note
        self._process = self._start()
        watcher = threading.Thread(target=self._watch, name="onstream-beside", daemon=True)
        watcher.start()
        self._listening.wait()
        try:
            if self._ending.is_set():
                raise JobError("the server did not start:\n" + "\n".join(self._said))
            yield
        finally:
            with self._restarting:
                self._ending.set()
                process = self._process
            process.terminate()
            try:
                # It keeps its own bound; this one is for a process that cannot.
                process.wait(self._drain_s + 5.0)
            except subprocess.TimeoutExpired:
                process.kill()
            watcher.join()

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def status(self) -> Status:
        """Return the newest numbers that it told; none while it does not run."""
        return self._status

    def _start(self) -> subprocess.Popen[str]:
        # Its own session: Ctrl-C is for this process, which then tells it to end.
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def _watch(self) -> None:
        while self._process is not None:
            self._listen(self._process)
            code = self._process.wait()
            self._status = {}
            if self._ending.is_set():
                return
            if not self._listening.is_set():
                # What keeps it from starting would keep it from starting again.
                self._ending.set()
                self._listening.set()
                return
            self._note(f"the server ended with code {code} and is started again")
            self._ending.wait(_RESTART_AFTER_S)
            with self._restarting:
                if self._ending.is_set():
                    return
                self._process = self._start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            if text.startswith(STATUS):
                self._status = json.loads(text.removeprefix(STATUS))
                continue
            self._said.append(text)
            if text.startswith("listening: "):
                self._listening.set()
            if self._listening.is_set():
                self._note(text)

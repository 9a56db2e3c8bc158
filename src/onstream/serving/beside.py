"""A server in a process of its own, beside one that trains."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TypeAlias

from onstream.errors import JobError

__all__ = ["STATUS", "Beside", "Status"]

Status: TypeAlias = dict[str, float]
"""Numbers that a server tells of itself, by name."""

STATUS = "status: "
"""What a line begins with that is told to a parent process: JSON follows."""

_KEPT_LINES = 20
_RESTART_AFTER_S = 1.0
# Seconds that it may take longer than it may take to drain: logs are closed after that.
_GRACE_S = 8.0

_log = logging.getLogger(__name__)


class Beside:
    """Run a server beside this process, and start it again if it dies.

    Parameters
    ----------
    command : sequence of str
        What starts it. It must end when its standard input does, so that it never outlives this process.
    drain_s : float
        How long it may take to end.
    errors : bool
        Hear what it says on standard error too; without, that goes where this process's goes.
    processors : collection of int, optional
        Those that all its threads keep to; by default, and where the system refuses that, those of this process.

    Notes
    -----
    A process of its own does not share this one's interpreter: neither waits for the other, and either may die.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        drain_s: float,
        errors: bool = True,
        processors: Collection[int] = (),
    ) -> None:
        self._command = list(command)
        self._errors = errors
        self._processors = processors
        self._note: Callable[[str], None] = lambda _: None
        self._drain_s = drain_s
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._status: Status = {}
        self._listening = threading.Event()
        self._failed = False
        self._ran = False
        self._ending = threading.Event()
        self._restarting = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._watcher: threading.Thread

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
        self.start(note)
        try:
            self.listens()
            yield
        finally:
            self.end()
            self.join()

    def start(self, note: Callable[[str], None]) -> None:
        """Start it, and return at once; `running` says the rest. Raises JobError if there is no such command."""
        self._note = note
        try:
            self._process = self._start()
        except OSError as error:
            raise JobError(f"the server did not start: {error}") from error
        self._watcher = threading.Thread(target=self._watch, name="onstream-beside", daemon=True)
        self._watcher.start()

    def listens(self, timeout_s: float | None = None) -> bool:
        """Return whether it listens, at the latest after `timeout_s`; without that, wait until it does.

        Raises
        ------
        JobError
            If it has ended before; the message is what it said.
        """
        self._listening.wait(timeout_s)
        if self._failed:
            # A command puts its name before its last words, and this process will put its own.
            said = [line.removeprefix("onstream: ") for line in self._said]
            raise JobError("the server did not start: " + ("\n".join(said) or "it said why"))
        return self._listening.is_set()

    def end(self) -> None:
        """Tell it to finish what it began and to end, and start it no more."""
        with self._restarting:
            self._ending.set()
            process = self._process
        self._ran = process is not None and process.poll() is None
        if process is not None:
            process.terminate()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, and kill it after `timeout_s`, by default a while more than it may take to drain.

        Returns
        -------
        bool
            Whether it finished what it had begun when it was told to end.
        """
        process = self._process
        if process is None:
            return True
        try:
            # It keeps its own bound; this one is for a process that cannot.
            process.wait(self._drain_s + _GRACE_S if timeout_s is None else timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
        # What it started itself may hold the pipe open.
        self._watcher.join(_GRACE_S)
        # One that was told before it could listen to signals had begun nothing.
        return not self._ran or process.poll() in (0, -signal.SIGTERM)

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
        with _kept_to(self._processors):
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if self._errors else None,
                text=True,
                errors="replace",
                start_new_session=True,
            )

    def _watch(self) -> None:
        process = self._process
        try:
            while process is not None:
                self._listen(process)
                code = process.wait()
                self._status = {}
                if self._ending.is_set() or not self._listening.is_set():
                    return
                self._tell(f"the server ended with code {code} and is started again")
                process = self._restarted()
        finally:
            if not self._listening.is_set():
                # What keeps it from starting would keep it from starting again.
                self._failed = True
                self._listening.set()

    def _restarted(self) -> subprocess.Popen[str] | None:
        """Start it again, however often that takes; return None if it is time to end."""
        while not self._ending.wait(_RESTART_AFTER_S):
            with self._restarting:
                if self._ending.is_set():
                    break
                try:
                    self._process = self._start()
                except OSError as error:
                    failure = error
                else:
                    return self._process
            self._tell(f"the server cannot be started again, which is tried further: {failure}")
        return None

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Take what it says until it ends. Nothing that it says ends this: it would wait for a pipe that is full."""
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            for line in process.stdout:
                self._hear(line.rstrip())

    def _hear(self, text: str) -> None:
        if text.startswith(STATUS) and (numbers := _numbers(text.removeprefix(STATUS))) is not None:
            self._status = numbers
            return
        self._said.append(text)
        if text.startswith("listening: "):
            self._listening.set()
        if self._listening.is_set():
            self._tell(text)

    def _tell(self, text: str) -> None:
        try:
            self._note(text)
        except Exception:
            _log.exception("a line of the server cannot be shown: %s", text)


@contextmanager
def _kept_to(processors: Collection[int]) -> Iterator[None]:
    """Keep this thread, and so what it starts meanwhile, to some processors, if any are named."""
    if not processors:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, processors)
    except OSError as error:
        # They were taken from this process meanwhile.
        _log.warning("the server is not kept to the processors %s: %s", processors, error)
    try:
        yield
    finally:
        # So may those before have been; the system has put others in their place.
        with suppress(OSError):
            os.sched_setaffinity(0, before)


def _numbers(text: str) -> Status | None:
    """Return the numbers that a status tells; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, dict) and all(isinstance(value, int | float) for value in found.values()):
        return found
    return None

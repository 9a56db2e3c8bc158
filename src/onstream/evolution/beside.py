"""Samplers as processes beside an updater."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

__all__ = ["running_samplers"]

# How long a sampler may take to end, before it is killed.
_GRACE_S = 10.0
_RESTART_AFTER_S = 0.5


@contextmanager
def running_samplers(
    commands: Sequence[Sequence[str]], stop: threading.Event, note: Callable[[str], None]
) -> Iterator[list[str]]:
    """Run commands, each in a process of its own, for the length of the block.

    Parameters
    ----------
    commands : sequence of sequence of str
        Each ends when its standard input is closed, which happens when this process dies, too.
    stop : threading.Event
        Set if one of them cannot go on.
    note : callable
        Told when one is started again.

    Yields
    ------
    list of str
        Why they could not go on; empty as long as they can.

    Notes
    -----
    One that was ended by a signal, as by the kernel when memory is short, is started again. One that ends by itself
    would do so again.
    """
    failures: list[str] = []
    samplers = [_Sampler(at, list(command), stop, note, failures) for at, command in enumerate(commands)]
    for sampler in samplers:
        sampler.start()
    try:
        yield failures
    finally:
        # All are told before any is waited for.
        for sampler in samplers:
            sampler.end()
        until_s = time.monotonic() + _GRACE_S
        for sampler in samplers:
            sampler.join(until_s)


class _Sampler:
    """Run a command, again and again after signals, until it is told to end."""

    def __init__(
        self,
        at: int,
        command: list[str],
        stop: threading.Event,
        note: Callable[[str], None],
        failures: list[str],
    ) -> None:
        self._command = command
        self._stop = stop
        self._note = note
        self._failures = failures
        # Guards the process: none is started once it is time to end.
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"onstream-sampler-{at}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Tell the process to end, and start no other."""
        with self._turn:
            self._ending.set()
            if self._process is not None:
                assert self._process.stdin is not None
                self._process.stdin.close()

    def join(self, until_s: float) -> None:
        """Wait for the process to end; kill it when it is late."""
        self._thread.join(max(0.0, until_s - time.monotonic()))
        if self._thread.is_alive():
            if self._process is not None:
                self._process.kill()
            self._thread.join()

    def _run(self) -> None:
        while (process := self._started()) is not None:
            said = _last_line(process)
            if self._ending.is_set():
                return
            if process.returncode >= 0:
                self._fail(f"a sampler ended with code {process.returncode}: {said}")
                return
            self._note(
                f"sampler {process.pid} was ended by signal {-process.returncode} and is started again"
            )
            self._ending.wait(_RESTART_AFTER_S)

    def _started(self) -> subprocess.Popen[str] | None:
        with self._turn:
            if self._ending.is_set():
                return None
            try:
                self._process = _start(self._command)
            except OSError as error:
                self._fail(f"a sampler did not start: {error}")
                return None
            return self._process

    def _fail(self, why: str) -> None:
        self._failures.append(why)
        self._stop.set()


def _start(command: list[str]) -> subprocess.Popen[str]:
    # Its own session: Ctrl-C is for this process, which then closes its standard input.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def _last_line(process: subprocess.Popen[str]) -> str:
    """Wait for a process to end, let go of its pipes, and return what it said last."""
    assert process.stderr is not None
    # Leaving the block closes its standard input, which would tell it to end.
    with process:
        said = deque((line.strip() for line in process.stderr if line.strip()), maxlen=1)
        process.wait()
    return said.pop() if said else ""

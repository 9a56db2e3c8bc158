"""Samplers as processes beside an updater."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

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
    ending = threading.Event()
    with ExitStack() as stack:
        # Last in, first out: the threads are told before they are waited for.
        threads = [
            threading.Thread(
                target=_keep_running,
                args=(list(command), ending, stop, note, failures),
                name=f"onstream-sampler-{at}",
                daemon=True,
            )
            for at, command in enumerate(commands)
        ]
        for thread in threads:
            stack.callback(thread.join)
        stack.callback(ending.set)
        for thread in threads:
            thread.start()
        yield failures


def _keep_running(
    command: list[str],
    ending: threading.Event,
    stop: threading.Event,
    note: Callable[[str], None],
    failures: list[str],
) -> None:
    """Run a command, again and again after signals, until it is time to end."""
    while not ending.is_set():
        try:
            process = _start(command)
        except OSError as error:
            failures.append(f"a sampler did not start: {error}")
            stop.set()
            return
        said = _until_end(process, ending)
        if ending.is_set():
            return
        if process.returncode >= 0:
            failures.append(f"a sampler ended with code {process.returncode}: {said}")
            stop.set()
            return
        note(f"sampler {process.pid} was ended by signal {-process.returncode} and is started again")
        ending.wait(_RESTART_AFTER_S)


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


def _until_end(process: subprocess.Popen[str], ending: threading.Event) -> str:
    """Wait for a process to end, or end it when it is time; return what it said last."""
    assert process.stdin is not None
    assert process.stderr is not None

    def finish() -> None:
        ending.wait()
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()

    # A daemon: it waits for the end of the block even if the process is gone before.
    threading.Thread(target=finish, name="onstream-sampler-end", daemon=True).start()
    lines = [line.strip() for line in process.stderr if line.strip()]
    process.wait()
    process.stderr.close()
    return lines[-1] if lines else ""

"""One server in several processes: an interpreter keeps little more than one processor busy."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from onstream.errors import JobError
from onstream.serving.beside import Beside, Status
from onstream.serving.ports import SHARED, held
from onstream.serving.processors import shares
from onstream.serving.settings import Member
from onstream.trainer.signals import stopped_by_signals

__all__ = ["Processes"]

_STATUS_S = 1.0
# How often it is looked whether all listen.
_START_S = 0.05
# Seconds that they may take longer than they may take to drain.
_GRACE_S = 4.0
_LISTENING = "listening: "


class Processes:
    """Run a server several times on the same ports, and start again whichever dies.

    Parameters
    ----------
    command : callable
        Given a `Member` and the ports by wire, returns the command of that process. It must end when its standard
        input does, and share its ports with those of its like.
    count : int
        Processes.
    host : str
    ports : mapping of str to int
        By wire, "REST", "gRPC" or "Flight", those that are on; 0 takes a free one.
    drain_s : float
        How long each may take to end.
    pin : bool
        Keep each to processors of its own, if there are as many. What the threads of an interpreter share then stays in
        their caches; other work that is pinned to the same ones has no way out, and neither have these.

    Notes
    -----
    The system spreads connections over the processes, so that each client stays with one of them. Each follows the
    models on its own, with a copy of its own: another may answer by another version for as long as that takes to
    load. Flight, which cannot share a port, is the first one's alone.

    Ports are held here while processes come and go; that of Flight is free while the first one is started again.
    """

    def __init__(
        self,
        command: Callable[[Member, Mapping[str, int]], Sequence[str]],
        count: int,
        *,
        host: str,
        ports: Mapping[str, int],
        drain_s: float,
        pin: bool = True,
    ) -> None:
        """Start nothing yet."""
        if count < 1:
            raise JobError(f"a server needs at least 1 process, got {count}")
        if ports and not set(ports) & SHARED:
            raise JobError("several processes need REST or gRPC: the port of Flight cannot be shared")
        self._command = command
        self._count = count
        self._host = host
        self._ports = ports
        self._drain_s = drain_s
        self._pin = pin
        self._stop = threading.Event()

    def stop(self) -> None:
        """Have all finish what they began, and end. May be called from any thread, any number of times."""
        self._stop.set()

    def run(self, say: Callable[[str], None], status: Callable[[Status], None] | None = None) -> bool:
        """Serve until `stop` is called or, in the main thread, SIGTERM or SIGINT comes.

        Parameters
        ----------
        say : callable
            Told where they listen, once all do, and each line that one of them says.
        status : callable, optional
            Told every second what they did together: rates are summed, of times and versions it is the worst.

        Returns
        -------
        bool
            Whether all finished what they had begun.

        Raises
        ------
        JobError
            If an address cannot be used, or a process ends before it listens, which says why on standard error.
        """
        with ExitStack() as parts:
            parts.enter_context(stopped_by_signals(self._stop))
            folder = Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="onstream-")))
            ports = parts.enter_context(held(self._host, self._ports))
            members = [Member(folder, number) for number in range(1, self._count + 1)]
            own = shares(self._count, os.sched_getaffinity(0) if self._pin else ())
            # What they say on standard error stays there: warnings, and the access log if that is where it goes.
            servers = [
                Beside(self._command(one, ports), drain_s=self._drain_s, errors=False, processors=processors)
                for one, processors in zip(members, own, strict=True)
            ]
            heard = _Heard(say, self._count, pinned=all(own))
            try:
                for member, server in zip(members, servers, strict=True):
                    server.start(partial(heard, member.number))
                self._watch(servers, heard, status)
            finally:
                for server in servers:
                    server.end()
                # All by one bound, which ends before that of a process which started this one.
                bound_s = time.monotonic() + self._drain_s + _GRACE_S
                finished = [server.join(max(0.0, bound_s - time.monotonic())) for server in servers]
        return all(finished)

    def _watch(
        self, servers: Sequence[Beside], heard: _Heard, status: Callable[[Status], None] | None
    ) -> None:
        """Wait until it is time to stop; tell where they listen, and what they do."""
        while True:
            # Each is asked: one that has failed says so, whatever the others do.
            listening = [server.listens(0) for server in servers]
            if all(listening):
                break
            if self._stop.wait(_START_S):
                return
        heard.all_listen()
        while not self._stop.wait(_STATUS_S):
            if status is not None:
                status(_together([server.status() for server in servers]))


class _Heard:
    """What processes say, by the number of each; where they listen is said once, before all else."""

    def __init__(self, say: Callable[[str], None], count: int, *, pinned: bool) -> None:
        self._say = say
        self._count = count
        self._pinned = ", each on processors of its own" if pinned else ""
        self._where = ""
        self._waiting: list[str] | None = []
        self._changed = threading.Condition()

    def __call__(self, number: int, text: str) -> None:
        with self._changed:
            if text.startswith(_LISTENING):
                # The first one has all wires.
                self._where = text if number == 1 else self._where
                self._changed.notify()
                return
            line = f"process {number}: {text}"
            if self._waiting is None:
                self._say(line)
            else:
                self._waiting.append(line)

    def all_listen(self) -> None:
        """Say where, and what was said until now."""
        with self._changed:
            self._changed.wait_for(lambda: self._where)
            alone = "; Flight is the first one's" if "Flight" in self._where and self._count > 1 else ""
            for line in (
                self._where,
                f"{self._count} processes share that{self._pinned}{alone}",
                *(self._waiting or ()),
            ):
                self._say(line)
            self._waiting = None


def _together(found: Sequence[Status]) -> Status:
    """Return the numbers of several servers as those of one."""
    names = dict.fromkeys(name for status in found for name in status)
    values = {name: [status[name] for status in found if name in status] for name in names}
    return {
        name: sum(each) if name.endswith("_per_s") else min(each) if name == "version" else max(each)
        for name, each in values.items()
    }

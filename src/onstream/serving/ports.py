"""Ports of a server: of its own, or shared by several processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from onstream.errors import JobError

__all__ = ["SHARED", "held", "listen"]

_BACKLOG = 2048
SHARED = frozenset({"REST", "gRPC"})
"""The wires whose ports several processes can share."""


def listen(wire: str, host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that listens; a port that is `shared` is one for all who share it.

    Raises
    ------
    JobError
        If the address cannot be used.
    """
    try:
        return socket.create_server((host, port), family=_family(host), backlog=_BACKLOG, reuse_port=shared)
    except OSError as error:
        raise _refused(wire, host, port, error) from error


@contextmanager
def held(host: str, ports: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Hold ports by wire for processes that share them, and give their numbers; 0 takes a free one.

    Raises
    ------
    JobError
        If an address cannot be used, or somebody listens there.

    Notes
    -----
    Who listens gets connections, and who holds a port gets none. Flight's cannot be shared, so it is only found.
    """
    with ExitStack() as stack:
        found = {}
        for wire, port in ports.items():
            # Alone first: a server that shares its port with anybody would share it with these.
            with listen(wire, host, port) as alone:
                found[wire] = int(alone.getsockname()[1])
            if wire in SHARED:
                kept = stack.enter_context(socket.socket(_family(host), socket.SOCK_STREAM))
                try:
                    _hold(kept, host, found[wire])
                except OSError as error:
                    raise _refused(wire, host, port, error) from error
        yield found


def _hold(kept: socket.socket, host: str, port: int) -> None:
    if kept.family == socket.AF_INET6:
        kept.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # Connections of a server that was here before may linger, so an address may be used again to bind. Who would use
    # it again from then on, without sharing it, is kept out.
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind((host, port))
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refused(wire: str, host: str, port: int, error: OSError) -> JobError:
    # Python adds the address, which is told already.
    reason = (error.strerror or str(error)).partition(" (while attempting to bind")[0]
    return JobError(f"cannot serve {wire} at {host}:{port}: {reason}")

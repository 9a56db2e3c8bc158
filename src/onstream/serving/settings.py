"""How a prediction server runs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from onstream.errors import JobError
from onstream.streams import Log

__all__ = ["Member", "ModelSettings", "ServerSettings", "Share", "parse_share", "workers_of"]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the requests, and the version or tag that they go to.

    Parameters
    ----------
    which : str
        A tag, which is followed, or the number of a version.
    share : float
        Above 0, at most 1.
    """

    which: str
    share: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.which:
            raise JobError("a share of the requests goes to a tag or version, got an empty name")
        if not 0 < self.share <= 1:
            raise JobError(
                f"the share that goes to {self.which!r} must be above 0 and at most 1, got {self.share!r}"
            )


def parse_share(text: str) -> Share:
    """Return what ``TAG=SHARE`` says, as in "candidate=0.1".

    Raises
    ------
    JobError
    """
    which, equals, share = text.rpartition("=")
    try:
        if not equals:
            raise ValueError
        return Share(which, float(share))
    except ValueError as error:
        if isinstance(error, JobError):
            raise
        raise JobError(f"a share is TAG=SHARE, such as candidate=0.1, got {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """How one model is served.

    Parameters
    ----------
    directory : path
        Of the model. It may be made later: until a checkpoint is there, the model is not ready.
    tag : str, optional
        Serve the version that this tag points to, and follow the tag; without it, the newest version.
    canary : Share, optional
        This share of the requests is answered by another version.
    shadow : Share, optional
        This share of the requests is also scored by another version, after it was answered.
    max_staleness_s : float, optional
        The model is not ready while its version was cut longer ago.
    max_rows : int
        Requests are joined up to this many rows.
    max_delay_s : float
        How long a free worker may wait for as many requests as just came together; see `Batcher`.
    max_queue_rows, max_queue_requests : int
        What would make the queue longer is answered UNAVAILABLE at once.
    threads : int, optional
        Workers; half of the processors, from 1 to 4, by default.
    record : path, optional
        Keep every prediction in this embedded log; see `Recorder`.
    examples : Log, optional
        The embedded log that it learns from: freshness is then counted from the arrival of examples there, and
        not from the moment at which a version was cut.
    allow_pickle : bool
        Serve also models that are pickled: whoever writes the checkpoints may then run any code here.
    """

    directory: str | Path
    tag: str | None = None
    canary: Share | None = None
    shadow: Share | None = None
    max_staleness_s: float | None = None
    max_rows: int = 4096
    max_delay_s: float = 0.001
    max_queue_rows: int = 65_536
    max_queue_requests: int = 1024
    threads: int | None = None
    record: str | Path | None = None
    examples: Log | None = None
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.max_staleness_s is not None and not self.max_staleness_s > 0:
            raise JobError(f"max_staleness_s must be above 0, got {self.max_staleness_s!r}")
        for name in ("max_rows", "max_queue_rows", "max_queue_requests", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise JobError(f"{name} must be at least 1, got {value!r}")
        if not 0 <= self.max_delay_s <= 1:
            raise JobError(f"max_delay_s must be from 0 to 1 second, got {self.max_delay_s!r}")

    @property
    def workers(self) -> int:
        """How many threads compute predictions."""
        return self.threads or workers_of(1)


def workers_of(processes: int) -> int:
    """Return how many workers a model has by default in each of some processes."""
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2 // processes))


@dataclass(frozen=True, slots=True)
class Member:
    """One of several processes that serve the same on the same ports.

    Parameters
    ----------
    folder : Path
        Of them all, where they tell each other their metrics.
    number : int
        Its own, from 1 on.
    """

    folder: Path
    number: int


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens and how it ends.

    Parameters
    ----------
    host : str
        Address to listen on. One that others can reach needs tokens, client certificates or `Access.insecure`.
    rest_port, grpc_port, flight_port : int, optional
        0 takes a free port; None turns the wire off. /metrics is on the port of REST.
    drain_s : float
        How long requests may take to finish once the server is told to stop.
    access_log : path or "-", optional
        One JSON line for each request, appended to this file, or written to standard error.
    torch_threads : int
        Threads of one operation of a network. More than 1 helps large batches on machines with idle processors.
    member : Member, optional
        The server is one of several, as `Processes` starts them: it shares the ports of REST and gRPC, tells the
        metrics of all, and ends when a model of its own cannot answer any more, to be started again.
    """

    host: str = "127.0.0.1"
    rest_port: int | None = 8000
    grpc_port: int | None = 8001
    flight_port: int | None = 8815
    drain_s: float = 10.0
    access_log: str | Path | None = None
    torch_threads: int = 1
    member: Member | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        ports = [self.rest_port, self.grpc_port, self.flight_port]
        for name, port in zip(("rest_port", "grpc_port", "flight_port"), ports, strict=True):
            if port is not None and not 0 <= port < 65_536:
                raise JobError(f"{name} must be from 0 to 65535, or None, got {port!r}")
        taken = [port for port in ports if port]
        if len(taken) != len(set(taken)):
            raise JobError(f"each wire needs a port of its own, got {taken}")
        if all(port is None for port in ports):
            raise JobError("a server needs a wire: all ports are off")
        if not 0 <= self.drain_s < math.inf:
            raise JobError(f"drain_s must be a time of at least 0 s, got {self.drain_s!r}")
        if self.torch_threads < 1:
            raise JobError(f"torch_threads must be at least 1, got {self.torch_threads!r}")

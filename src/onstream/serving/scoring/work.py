"""What is to be scored, and where the scores go: pieces of requests whose results are written once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa

from onstream.contracts import Chunk
from onstream.streams import Log
from onstream.streams.log import Claim, LogGroup

__all__ = ["LogRequests", "LogWork", "Piece", "Work"]

_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Piece:
    """Requests that are taken together: they are scored, and then all of their results are written, or none.

    Attributes
    ----------
    chunks : sequence of Chunk
    proof : object
        Of whoever took them, for `Work.write`.
    """

    chunks: Sequence[Chunk]
    proof: Any


class Work(Protocol):
    """Requests of a group of processes, and the place for their results."""

    def take(self, max_rows: int, stop: threading.Event) -> Piece | None:
        """Wait for requests and take some; None once `stop` is set, or at the end of requests that end."""

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch], stop: threading.Event) -> bool:
        """Write the results of a piece.

        Returns
        -------
        bool
            False if these are dropped: another process has written them or has their requests now, or `stop` was set
            before it was known whether it has.
        """

    def give_back(self, piece: Piece) -> None:
        """Let another process have the requests of a piece."""

    def behind(self) -> tuple[int, str] | None:
        """Return how much has no result yet, and its unit."""

    def close(self) -> None:
        """Leave the group."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class LogRequests:
    """Requests of one embedded log, shared among the processes of a group.

    Parameters
    ----------
    source : Log
        Closed with this.
    group : LogGroup
    follow : bool
        Whether to wait for more at the end.
    """

    def __init__(self, source: Log, group: LogGroup, *, follow: bool = True) -> None:
        self._source = source.replay(follow=False)
        self._follow = follow
        self.group = group

    def take(self, max_rows: int, stop: threading.Event) -> Piece | None:
        """Wait for requests and take some; None once `stop` is set, or at the end without `follow`."""
        while not stop.is_set():
            claim = self.group.claim(max_rows)
            if claim is not None:
                return Piece(self._read(claim), claim)
            # Others may still die with what they have claimed.
            if not self._follow and not self.group.behind():
                return None
            stop.wait(_POLL_S)
        return None

    def give_back(self, piece: Piece) -> None:
        """Let another process have the requests of a piece."""
        self.group.give_back(piece.proof)

    def behind(self) -> tuple[int, str]:
        """Return how many requests have no result yet."""
        return self.group.behind(), "rows"

    def close(self) -> None:
        """Close the log."""
        self._source.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _read(self, claim: Claim) -> list[Chunk]:
        chunks: list[Chunk] = []
        at = claim.first
        while at < claim.end:
            # A chunk may be shorter than what is asked for, and one that tells of a gap may reach farther.
            read = self._source.read({"log": at}, max_rows=claim.end - at, stop=threading.Event())
            chunk = next(iter(read))
            chunks.append(chunk)
            at = chunk.next
        return chunks


class LogWork(LogRequests):
    """Requests of one embedded log, results into another.

    Parameters
    ----------
    source, target : Log
        Closed with this.
    group : str
    start : {"earliest", "latest"} or int
    follow : bool
        Whether to wait for more at the end.
    lease_s : float
        As `LogGroup` says.

    Notes
    -----
    Every request has its result in the target exactly once, however many processes share the group and whichever
    of them die.
    """

    def __init__(
        self,
        source: Log,
        target: Log,
        group: str,
        *,
        start: str | int = "latest",
        follow: bool = True,
        lease_s: float = 30.0,
    ) -> None:
        self._target = target
        super().__init__(source, LogGroup(source, target, group, start=start, lease_s=lease_s), follow=follow)

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch], stop: threading.Event) -> bool:
        """Append the results of a piece; False if another process has done so."""
        return self.group.write(piece.proof, results) is not None

    def close(self) -> None:
        """Close the logs."""
        super().close()
        self._target.close()

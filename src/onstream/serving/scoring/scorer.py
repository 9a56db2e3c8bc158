"""Scoring a stream: requests are taken, scored by the newest version, and their results written once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onstream.errors import UnavailableError
from onstream.serving.replica import Replica
from onstream.serving.scoring.results import check_names, results_of
from onstream.serving.scoring.work import Piece, Work

__all__ = ["Scored", "Scorer"]

_WAIT_S = 0.05


@dataclass(frozen=True, slots=True)
class Scored:
    """What one process has scored so far.

    Attributes
    ----------
    num_rows : int
        Results written, errors included.
    num_errors : int
        Results without a prediction.
    num_dropped : int
        Results that were not written, since another process had written them or has their requests now.
    version : int or None
        The version of the newest result.
    behind : tuple of int and str, or None
        How much has no result yet, and its unit.
    """

    num_rows: int = 0
    num_errors: int = 0
    num_dropped: int = 0
    version: int | None = None
    behind: tuple[int, str] | None = None


class Scorer:
    """Score requests of a stream by a model that is followed as it learns.

    Parameters
    ----------
    replica : Replica
        Followed meanwhile; its first version is waited for.
    work : Work
        Where requests come from and results go.
    keys : sequence of str
        Columns of the requests that their results keep.
    max_rows : int
        Requests that are scored together, at most.
    report : callable, optional
        Receives a `Scored` every `report_every_s` seconds, and at the end.
    note : callable, optional
        Receives a sentence for what people should know.
    report_every_s : float

    Notes
    -----
    One piece after the other is scored, by the newest version that is loaded then; run more processes of one group
    to score more at once.
    """

    def __init__(
        self,
        replica: Replica,
        work: Work,
        *,
        keys: Sequence[str] = (),
        max_rows: int = 4096,
        report: Callable[[Scored], None] | None = None,
        note: Callable[[str], None] | None = None,
        report_every_s: float = 5.0,
    ) -> None:
        self._replica = replica
        self._work = work
        self._keys = tuple(keys)
        self._max_rows = max_rows
        self._report = report or (lambda scored: None)
        self._note = note or (lambda sentence: None)
        self._report_every_s = report_every_s

    def run(self, stop: threading.Event) -> Scored:
        """Score until `stop` is set or the requests end; what was taken is finished first.

        Only what a group is just giving to other members is left to the group.

        Raises
        ------
        JobError
            If a key is called as another column of the results.
        StreamError
            If requests cannot be read or results not be written.
        CheckpointError
            If the network of a version fails.
        """
        ended = threading.Event()
        follower = threading.Thread(target=self._replica.follow, args=(ended,), name="onstream-follow")
        follower.start()
        try:
            if not self._ready(stop):
                return Scored()
            return self._run(stop)
        finally:
            ended.set()
            follower.join()

    def _ready(self, stop: threading.Event) -> bool:
        """Wait for the first version; return whether there is one."""
        told = False
        while not stop.is_set():
            try:
                check_names(self._keys, self._replica.signature().outputs)
                return True
            except UnavailableError as error:
                if not told:
                    self._note(f"waiting: {error}")
                    told = True
                stop.wait(_WAIT_S)
        return False

    def _run(self, stop: threading.Event) -> Scored:
        scored = Scored()
        due_s = time.monotonic() + self._report_every_s
        while (piece := self._work.take(self._max_rows, stop)) is not None:
            scored = self._score(piece, scored, stop)
            if time.monotonic() >= due_s:
                self._told(scored)
                due_s = time.monotonic() + self._report_every_s
        return self._told(scored)

    def _told(self, scored: Scored) -> Scored:
        """Report, with how much is left: that is a question to the source, so it is asked for reports alone."""
        told = replace(scored, behind=self._work.behind())
        self._report(told)
        return told

    def _score(self, piece: Piece, before: Scored, stop: threading.Event) -> Scored:
        try:
            with self._replica.reading() as version:
                number = version.version
                results = [results_of(chunk, version, self._keys) for chunk in piece.chunks]
        except BaseException:
            self._work.give_back(piece)
            raise
        num_rows = sum(batch.num_rows for batch in results)
        num_errors = sum(batch.num_rows - batch.column("error").null_count for batch in results)
        if not self._work.write(piece, results, stop):
            return replace(before, num_dropped=before.num_dropped + num_rows)
        return replace(
            before,
            num_rows=before.num_rows + num_rows,
            num_errors=before.num_errors + num_errors,
            version=number,
        )

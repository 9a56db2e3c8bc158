"""A model that follows its checkpoints: seconds old, whole, and never in the way of those who read it."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Store
from onstream.errors import OnstreamError, UnavailableError
from onstream.serving.model import Signature
from onstream.serving.version import Copy, Version

__all__ = ["Replica", "ReplicaStatus", "Version"]

_log = logging.getLogger(__name__)

# A version that cannot be loaded is looked at again after so many polls: someone may put a lost file back.
_POLLS_BETWEEN_TRIES = 50


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """How a replica is at the moment.

    Attributes
    ----------
    version : int or None
        The version that answers.
    cut_s : float or None
        When it was cut, in seconds since 1970: what it predicts reflects nothing that was learned later.
    swapped_s : float or None
        Since when it answers, in seconds since 1970.
    num_rows : dict of str to int
        Rows of each table.
    error : str or None
        Why the version to be served cannot be, and an older one answers, or none.
    """

    version: int | None
    cut_s: float | None
    swapped_s: float | None
    num_rows: dict[str, int]
    error: str | None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a version cannot be served, and with which poll it is tried again."""

    reason: str
    again: int


class Replica:
    """Serve the newest version of a checkpoint log, or a tagged one, and follow it.

    Parameters
    ----------
    store : Store or path
        Where the checkpoints are.
    tag : str, optional
        Follow the version that this tag points to, back and forth; digits name one version for good.
    threads : int, optional
        Of the tables; by default one per processor, at most 16.
    report : callable, optional
        Receives a sentence for each version that cannot be loaded. By default they are logged as warnings.
    allow_pickle : bool
        Load also models that are pickled: whoever writes the checkpoints may then run any code here.

    Notes
    -----
    A reader sees one version, whole, for as long as it reads; it never waits for another version to be loaded.
    There are two copies of the model (left-right): one answers, the other becomes the next version by what
    changed since its own, once its last readers have gone. So a replica needs the memory of two copies of the
    rows, without what optimizers remember. All methods may be called from any thread.

    A version that cannot be loaded, be it damaged, too large for the memory, or removed by the trainer meanwhile, is
    passed over, tried again after a while, and told of by `status`; the version before goes on answering.

    References
    ----------
    Ramalhete, Correia 2015, "Left-Right: a concurrency control technique with wait-free population oblivious
    reads".
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        tag: str | None = None,
        threads: int | None = None,
        report: Callable[[str], None] | None = None,
        allow_pickle: bool = False,
    ) -> None:
        self._store = LocalStore(store) if isinstance(store, str | os.PathLike) else store
        self._log = CheckpointLog(self._store)
        self._tag = tag
        self._report = report or _log.warning
        self._empty = partial(Copy, threads, allow_pickle=allow_pickle)
        # Guards which copy answers, and who reads it. It is held for moments only.
        self._turn = threading.Lock()
        self._front: Copy | None = None
        self._back: Copy | None = self._empty()
        self._swapped_s: float | None = None
        self._trouble: str | None = None
        # One poll at a time.
        self._following = threading.Lock()
        self._polls = 0
        self._failed: dict[int, _Failure] = {}
        self._told: str | None = None

    # ------------------------------------------------------------------------------------ reading

    @contextmanager
    def reading(self) -> Iterator[Version]:
        """Give the version that answers now; it stays as it is until the block ends, and not longer.

        Raises
        ------
        UnavailableError
            If no version is loaded, or the replica is closed.
        """
        with self._turn:
            copy = self._answering()
            copy.readers += 1
        try:
            assert copy.version is not None
            yield copy.version
        finally:
            with self._turn:
                copy.readers -= 1

    def signature(self) -> Signature:
        """Return what the version that answers takes and gives.

        Raises
        ------
        UnavailableError
            If no version is loaded.
        """
        with self._turn:
            version = self._answering().version
        assert version is not None
        return version.signature

    def status(self) -> ReplicaStatus:
        """Return how it is: the version that answers, how old it is, and whether following failed."""
        with self._turn:
            copy = self._front
            version = copy.version if copy else None
            return ReplicaStatus(
                version=version.version if version else None,
                cut_s=version.cut_s if version else None,
                swapped_s=self._swapped_s,
                num_rows=copy.num_rows() if copy else {},
                error=self._error(),
            )

    # ---------------------------------------------------------------------------------- following

    def poll(self) -> bool:
        """Load the version that should answer, if another one does, and let it answer.

        Returns
        -------
        bool
            Whether another version answers now. False also while the copy to be written is still being read:
            the next poll tries again.

        Notes
        -----
        When nothing is new, this costs the listing of one folder, or the reading of the tags.
        """
        with self._following:
            self._polls += 1
            try:
                while (version := self._wanted()) is not None:
                    copy = self._writable()
                    if copy is None:
                        return False
                    try:
                        copy.load(self._log, self._log.read(version))
                    except Exception as error:
                        # Whatever is wrong with it, also what nobody thought of: another version may be whole.
                        self._pass_over(version, error)
                    else:
                        # What was passed over for this version no longer matters, unless it is newer.
                        newer = {v: failure for v, failure in self._failed.items() if v > version}
                        self._failed = newer if self._tag is None else {}
                        return self._swap(copy)
                self._trouble = None
            except OnstreamError as error:
                self._trouble = f"checkpoints cannot be followed: {error}"
                self._tell(self._trouble, error)
            return False

    def follow(self, stop: threading.Event, every_s: float = 0.02) -> None:
        """Poll until `stop` is set; nothing that happens ends it before.

        Parameters
        ----------
        stop : threading.Event
        every_s : float
            Seconds between polls.
        """
        while not stop.is_set():
            try:
                self.poll()
            except Exception as failure:
                # A server must go on with what it has, and say that it is getting old.
                self._trouble = f"following failed: {type(failure).__name__}: {failure}"
                self._tell(self._trouble, failure)
            stop.wait(every_s)

    def close(self) -> None:
        """Give the memory back, as soon as the last readers have gone. Closing twice is no error."""
        with self._turn:
            self._front = self._back = None

    # ------------------------------------------------------------------------------------ helpers

    def _answering(self) -> Copy:
        if self._front is None:
            why = self._error()
            raise UnavailableError(f"no version of the model is loaded{': ' if why else ''}{why or ''}")
        return self._front

    def _wanted(self) -> int | None:
        """Return the version to load next, or None if the best one answers already or waits for another try."""
        with self._turn:
            now = self._front.version.version if self._front and self._front.version else None
        if self._tag is None:
            versions = self._log.versions()
            # Versions only grow, unless the log was begun anew in the same folder.
            anew = now is None or (now not in versions and max(versions, default=now) < now)
            wanted = [version for version in reversed(versions) if anew or version > (now or 0)]
        elif re.fullmatch("[0-9]+", self._tag):
            wanted = [int(self._tag)]
        else:
            wanted = [self._log.resolve(self._tag)]
        wanted = [version for version in wanted if version != now]
        self._failed = {version: failure for version, failure in self._failed.items() if version in wanted}
        waits = {version for version, failure in self._failed.items() if failure.again > self._polls}
        return next((version for version in wanted if version not in waits), None)

    def _writable(self) -> Copy | None:
        """Return the copy that does not answer, once nobody reads it any more."""
        with self._turn:
            return self._back if self._back is not None and self._back.readers == 0 else None

    def _swap(self, copy: Copy) -> bool:
        """Let a copy answer, unless the replica was closed meanwhile."""
        with self._turn:
            if self._back is not copy:
                return False
            self._front, self._back = copy, self._front or self._empty()
            self._swapped_s = time.time()
        self._trouble = self._told = None
        return True

    def _pass_over(self, version: int, error: Exception) -> None:
        what = str(error) if isinstance(error, OnstreamError) else f"{type(error).__name__}: {error}"
        reason = f"version {version} cannot be served: {what}"
        self._failed[version] = _Failure(reason, self._polls + _POLLS_BETWEEN_TRIES)
        self._tell(reason, error)

    def _error(self) -> str | None:
        newest = max(self._failed, default=None)
        return self._trouble or (None if newest is None else self._failed[newest].reason)

    def _tell(self, sentence: str, error: Exception) -> None:
        """Report, but not the same again for each version and each poll."""
        if self._told != str(error):
            self._told = str(error)
            self._report(sentence)

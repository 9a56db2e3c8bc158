"""Checkpoints in the background, so that the training loop never waits for a disk."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Self

from onstream.checkpoints.log import CheckpointLog
from onstream.checkpoints.manifest import Manifest
from onstream.checkpoints.snapshot import Snapshot
from onstream.errors import CheckpointError

__all__ = ["CheckpointWriter"]

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 1.0
_NICENESS = 10


class CheckpointWriter:
    """Commits snapshots in the background, one at a time; each becomes durable or its error is raised.

    Parameters
    ----------
    log : CheckpointLog
        Restored, or over an empty store.
    retries : int
        How often a commit that fails is tried again, after 1, 2, 4, ... seconds.
    wait : callable, optional
        Waits for the given seconds; by default it really waits, and `close` cuts it short.
    report : callable, optional
        Receives one sentence for each failed attempt. By default they are logged as warnings.
    committed : callable, optional
        Given each version once it is durable, in the thread that wrote it; `flush` waits for it too.

    Notes
    -----
    A failed commit leaves the versions that were there whole; its snapshot is kept and tried again, `busy`
    meanwhile. After the last try the error is raised by `submit`, `poll` and `flush`, from then on each time:
    rows of a lost snapshot would be missing from every later version. Long chains are merged in a second
    thread at low priority, which holds no commit up.
    """

    def __init__(
        self,
        log: CheckpointLog,
        *,
        retries: int = 3,
        wait: Callable[[float], object] | None = None,
        report: Callable[[str], None] | None = None,
        committed: Callable[[Manifest], object] | None = None,
    ) -> None:
        self.log = log
        self._retries = retries
        self._closing = threading.Event()
        self._wait = wait or self._closing.wait
        self._report = report or _log.warning
        self._tell_committed = committed
        self._changed = threading.Condition()
        self._snapshot: Snapshot | None = None
        self._error: BaseException | None = None
        self._committed = log.parent
        self._to_compact: Manifest | None = None
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=f"onstream-{name}", daemon=True)
            for name, work in (("commit", self._commit_all), ("compact", self._compact_all))
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            # The error that ends the block is the one to see; a failed commit was reported when it failed.
            with contextlib.suppress(CheckpointError):
                self.close()

    @property
    def busy(self) -> bool:
        """Whether a snapshot is still being written."""
        return self._snapshot is not None

    def submit(self, snapshot: Snapshot) -> bool:
        """Take a snapshot to commit, unless one is still being written.

        Ask `busy` before cutting deltas from tables: a delta that was cut belongs in a checkpoint.

        Returns
        -------
        bool
            False when `busy`: the snapshot was not taken.

        Raises
        ------
        CheckpointError
            If an earlier commit has failed for good, or the writer is closed.
        """
        with self._changed:
            self._raise_error()
            if self._closing.is_set():
                raise CheckpointError("the checkpoint writer is closed")
            if self._snapshot is not None:
                return False
            self._snapshot = snapshot
            self._changed.notify_all()
            return True

    def poll(self) -> Manifest | None:
        """Return the newest durable version, without waiting.

        Raises
        ------
        CheckpointError
            If a commit has failed for good.
        """
        with self._changed:
            self._raise_error()
            return self._committed

    def flush(self) -> Manifest | None:
        """Wait until every snapshot taken is durable, and return the newest version.

        Raises
        ------
        CheckpointError
            If a commit has failed for good.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._snapshot is None or self._error is not None)
            self._raise_error()
            return self._committed

    def close(self) -> None:
        """Wait until every snapshot taken is durable, give up a merge in progress, and end the threads.

        Raises
        ------
        CheckpointError
            If a commit has failed for good.
        """
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _guarded(self, work: Callable[[], None]) -> None:
        """Run a thread's work; an error that it does not handle is raised to the trainer."""
        try:
            work()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _commit_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._snapshot is not None or self._closing.is_set())
                snapshot = self._snapshot
            if snapshot is None:
                return
            manifest = self._commit(snapshot)
            if self._tell_committed is not None:
                self._tell_committed(manifest)
            with self._changed:
                self._snapshot = None
                self._committed = self._to_compact = manifest
                self._changed.notify_all()

    def _commit(self, snapshot: Snapshot) -> Manifest:
        for attempt in range(self._retries):
            try:
                return self.log.commit(snapshot)
            except CheckpointError as error:
                wait_s = _FIRST_WAIT_S * 2**attempt
                self._report(f"a checkpoint could not be written, next try in {wait_s:g} s: {error}")
                self._wait(wait_s)
        return self.log.commit(snapshot)

    def _compact_all(self) -> None:
        if sys.platform == "linux":
            # On Linux niceness belongs to a thread. Where it may not be set, merging works all the same.
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._to_compact is not None or self._closing.is_set())
                manifest, self._to_compact = self._to_compact, None
            if self._closing.is_set() or manifest is None:
                return
            try:
                self.log.compact(manifest, stop=self._closing)
            except CheckpointError as error:
                self._report(f"segments of version {manifest.version} could not be merged: {error}")

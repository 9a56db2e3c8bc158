"""The checkpoint log: numbered versions, each visible whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Self

from onstream.checkpoints.compact import StoppedError, due, merge
from onstream.checkpoints.files import StoredFile
from onstream.checkpoints.manifest import Chain, Manifest, manifest_name, plain
from onstream.checkpoints.retention import remove_old
from onstream.checkpoints.segments import SegmentFile
from onstream.checkpoints.snapshot import Snapshot, file_name, grow, put_state
from onstream.checkpoints.store import Lockable, locked
from onstream.checkpoints.tagging import TaggedVersions
from onstream.contracts import State, Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["CheckpointLog"]

_log = logging.getLogger(__name__)


class CheckpointLog(TaggedVersions):
    """Numbered versions, each visible whole or not at all; a crash loses at most the commit in progress.

    `restore` and `commit` are for training; `newest`, `rows` and `states` for serving; tags and `rollback`
    for operating.

    Parameters
    ----------
    store : Store
    keep : int
        How many of the newest versions stay. Besides, each tag keeps its version and the one to roll back to.
    report : callable, optional
        Receives one sentence for each damaged version that is passed over and each clean-up that fails. By
        default they are logged as warnings.
    clock : callable, optional
        Seconds since 1970, for what tags remember.

    Notes
    -----
    One log at a time writes to a store: the first writing call takes the lock, `close` gives it back. Reading
    and tagging need no lock. All methods may be called from any thread.

    Examples
    --------
    >>> import tempfile
    >>> from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
    >>> from onstream.contracts import State
    >>> with CheckpointLog(LocalStore(tempfile.mkdtemp())) as log:
    ...     meter = State(facts={"examples": 100})
    ...     _ = log.commit(Snapshot(states={"meter": meter}, positions={"clicks": 100}))
    ...     manifest = log.newest()
    >>> manifest.version, manifest.positions, log.states(manifest, "meter").facts
    (1, {'clicks': 100}, {'examples': 100})
    """

    def __init__(
        self,
        store: Store,
        *,
        keep: int = 5,
        report: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if keep < 1:
            raise CheckpointError(f"keep must be 1 or more versions, got {keep}")
        super().__init__(store, report or _log.warning, clock)
        self.keep = keep
        self._parent: Manifest | None = None
        self._owned: contextlib.ExitStack | None = None
        self._fresh = False
        self._mutex = threading.RLock()
        # Files that a compaction reads or writes, or that wait for the next commit: never swept.
        self._in_flight: set[str] = set()
        self._merged: list[tuple[str, SegmentFile]] = []
        # What each state of `parent` was made from, as long as somebody else holds it.
        self._written: dict[str, weakref.ref[State]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def parent(self) -> Manifest | None:
        """The version that the next commit grows from: the one last restored or committed."""
        return self._parent

    def restore(self, which: str | int | None = None) -> Manifest | None:
        """Return the version to go on from, every byte of it checked; the next commit grows from it.

        Parameters
        ----------
        which : str or int, optional
            A tag or a version; the newest whole version by default.

        Returns
        -------
        Manifest or None
            None if the store holds no checkpoint.

        Raises
        ------
        DamagedError
            If `which` is damaged, or every version is.
        CheckpointError
            If there is no such version, or another log writes to the store.
        """
        with self._mutex:
            self._own()
            if which is not None:
                manifest = self._whole(self.resolve(which), verify=True)
            else:
                found = self.newest(verify=True)
                if found is None and (versions := self.versions()):
                    raise DamagedError(
                        f"none of the versions {versions} is whole; see the reports, restore the files "
                        f"from a copy, or use another folder to start anew"
                    )
                if found is None:
                    return None
                manifest = found
            self._parent = manifest
            self._written = {}
            return manifest

    def commit(self, snapshot: Snapshot) -> Manifest:
        """Make a snapshot the newest version, durable and visible when this returns, and not before.

        Raises
        ------
        CheckpointError
            If it cannot be written; the versions that were there are untouched, and the same snapshot can be
            committed again. Also if the store holds versions and none was restored, if another log writes to
            it, or if a table's shape differs from that of its chain.
        ShapeError
            If the arrays of a delta do not fit each other.

        Notes
        -----
        Files first, the manifest last. Empty deltas and unchanged states write no file, and a state that is the
        same object as in the version before is not looked at, so it must not have been changed. Segments that
        `compact` has merged replace theirs. Old versions are then removed; failing at that is reported.
        """
        with self._mutex:
            self._own()
            version = self._next_version()
            if self._parent is None and not self._fresh:
                raise CheckpointError(
                    f"the store holds checkpoints up to version {version - 1} and none was restored; "
                    f"call restore() first, or use another folder to start anew"
                )
            with self._swept_on_failure():
                tables = self._chains()
                for name in {*snapshot.tables, *snapshot.table_facts}:
                    tables[name] = grow(self.store, name, tables.get(name), snapshot, version)
                manifest = Manifest(
                    version=version,
                    parent=self._parent.version if self._parent else None,
                    tables=tables,
                    states={k: self._put_state(k, state, version) for k, state in snapshot.states.items()},
                    positions=plain(snapshot.positions, "positions"),
                    facts=plain(snapshot.facts, "facts"),
                )
                made = self._publish(manifest)
            self._written = {name: weakref.ref(state) for name, state in snapshot.states.items()}
            return made

    def recommit(self, **facts: Any) -> Manifest:
        """Commit the content of `parent` again as the newest version, with `facts` added.

        Use it after `compact` to have the merged chains in a version at once.

        Raises
        ------
        CheckpointError
            If nothing was restored or committed, or the manifest cannot be written.
        """
        with self._mutex:
            self._own()
            if self._parent is None:
                raise CheckpointError("there is no version to commit again; call restore() first")
            with self._swept_on_failure():
                return self._publish(
                    replace(
                        self._parent,
                        version=self._next_version(),
                        parent=self._parent.version,
                        tables=self._chains(),
                        facts=self._parent.facts | plain(facts, "facts"),
                    )
                )

    def rollback(self, version: int) -> Manifest:
        """Make the content of an older version the newest: a new version that names the same files.

        Returns
        -------
        Manifest
            Its facts say ``{"rolled_back_to": version}`` besides those of the old version.

        Raises
        ------
        DamagedError
            If that version is damaged.
        CheckpointError
            If there is no such version, another log writes, or the manifest cannot be written.
        """
        with self._mutex:
            before = self._parent
            self.restore(version)
            try:
                return self.recommit(rolled_back_to=version)
            except BaseException:
                self._parent = before
                raise

    def compact(self, manifest: Manifest, *, full: bool = False, stop: threading.Event | None = None) -> int:
        """Merge segments of long chains; the next commit uses the merged ones, nothing changes until then.

        Parameters
        ----------
        manifest : Manifest
            Usually `parent`. If the next commit grows from a version with other segments, the merged ones are
            dropped.
        full : bool
            Merge every chain down to its base, due or not.
        stop : threading.Event, optional
            Set by another thread to give up before the next partition.

        Returns
        -------
        int
            How many chains were shortened.

        Raises
        ------
        DamagedError
            If a segment is damaged.
        CheckpointError
            If a merged segment cannot be written.

        Notes
        -----
        Commits and reads go on meanwhile.
        """
        with self._mutex:
            self._own()
            waiting = {table for table, _ in self._merged}
        count = 0
        for table, chain in manifest.tables.items():
            everything = slice(0, len(chain.segments)) if full and len(chain.segments) > 1 else None
            span = everything or due(chain.segments)
            # One merge of a table at a time: the next would read segments that are about to be replaced.
            if span is None or table in waiting:
                continue
            entries = chain.segments[span]
            name = file_name("segments", manifest.version, table, "arrow")
            with self._pinned({name, *(entry.name for entry in entries)}):
                try:
                    merged = merge(
                        self.store, name, entries, chain.shape, drop_deletions=span.start == 0, stop=stop
                    )
                except StoppedError:
                    return count
                with self._mutex:
                    self._merged.append((table, merged))
            count += 1
        return count

    def sweep(self) -> None:
        """Remove old versions and files that no version needs, such as leftovers of a crash.

        Raises
        ------
        CheckpointError
            If it cannot be known what is needed (an unreadable tag, a version of a newer format), if a file
            cannot be removed, or if another log writes to the store.

        Notes
        -----
        Manifests go first, then the files that none of the others names: a crash in between leaves files
        without a manifest, which the next sweep removes, never a manifest without its files.
        """
        with self._mutex:
            self._own()
            with locked(self.store, "tags", wait=True):
                remove_old(
                    self.store,
                    keep=self.keep,
                    parent=self._parent,
                    in_flight=self._in_flight | {merged.name for _, merged in self._merged},
                )

    def close(self) -> None:
        """Let another log write. Closing twice is no error."""
        with self._mutex:
            if self._owned is not None:
                self._owned.close()
            self._owned = None
            self._parent = None
            self._merged.clear()

    def _own(self) -> None:
        """Become the one writer."""
        if self._owned is not None:
            return
        with contextlib.ExitStack() as stack:
            if isinstance(self.store, Lockable):
                stack.enter_context(self.store.lock("writer"))
                # Tags are written without the writer's lock: none may be in the making while leftovers go.
                with locked(self.store, "tags", wait=True):
                    self.store.sweep()
            self._fresh = not self.versions()
            self._owned = stack.pop_all()

    def _next_version(self) -> int:
        return max(self.versions(), default=0) + 1

    def _chains(self) -> dict[str, Chain]:
        """Return the chains of the parent, with merged segments in the place of theirs."""
        tables = dict(self._parent.tables) if self._parent else {}
        for table, merged in self._merged:
            if table in tables:
                tables[table] = tables[table].adopt(merged)
        return tables

    def _put_state(self, name: str, state: State, version: int) -> StoredFile:
        before = self._parent.states.get(name) if self._parent else None
        if before is not None and (written := self._written.get(name)) and written() is state:
            return before
        return put_state(self.store, name, state, before, version)

    def _publish(self, manifest: Manifest) -> Manifest:
        # The manifest goes last: a crash before this line leaves files that no manifest names, which the next
        # sweep removes; the other order could leave a manifest that names files which are gone.
        self.store.write(manifest_name(manifest.version), [manifest.to_bytes()])
        self._parent = manifest
        self._merged.clear()
        try:
            self.sweep()
        except CheckpointError as error:
            self._report(
                f"version {manifest.version} is committed, but old versions could not be removed: {error}"
            )
        return manifest

    @contextlib.contextmanager
    def _swept_on_failure(self) -> Iterator[None]:
        """Give the room of a failed commit back at once: the disk may be full."""
        try:
            yield
        except BaseException:
            # The first error is the one to raise; what cannot be removed now goes with the next sweep.
            with contextlib.suppress(CheckpointError):
                self.sweep()
            raise

    @contextlib.contextmanager
    def _pinned(self, names: set[str]) -> Iterator[None]:
        with self._mutex:
            self._in_flight |= names
        try:
            yield
        finally:
            with self._mutex:
                self._in_flight -= names

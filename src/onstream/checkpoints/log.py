"""The checkpoint log: numbered versions, each visible whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self, runtime_checkable

from onstream.checkpoints.compact import StoppedError, due, merge
from onstream.checkpoints.files import StoredFile, check, digest, load, put
from onstream.checkpoints.manifest import (
    Chain,
    Manifest,
    manifest_name,
    manifest_version,
    plain,
    read_manifest,
)
from onstream.checkpoints.segments import (
    Segment,
    SegmentFile,
    TableShape,
    segment_of,
    shape_of,
    write_segment,
)
from onstream.checkpoints.states import read_state, state_bytes
from onstream.checkpoints.tags import Tag, is_tag_name, read_tag, read_tags, remove_tag, write_tag
from onstream.contracts import Delta, Positions, State, Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["CheckpointLog", "Lockable", "Snapshot"]

_log = logging.getLogger(__name__)

_FOLDERS = ("segments/", "states/")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one commit binds together.

    Attributes
    ----------
    tables : mapping of str to Delta
        Rows touched since the last snapshot. A table that is not named keeps the rows it has.
    states : mapping of str to State
        All of them: a state that is not named is not in the version.
    positions : Positions
    facts : mapping
        JSON values; NaN and infinity become null.
    table_facts : mapping of str to mapping
        JSON values kept with a table; a table that is not named keeps those it has.
    replace : collection of str
        Tables whose delta is all they have: what earlier versions say of them no longer counts.
    """

    tables: Mapping[str, Delta] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    positions: Positions = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    table_facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replace: Collection[str] = ()


@runtime_checkable
class Lockable(Protocol):
    """A store that can keep a second writer out, as `LocalStore` does."""

    def lock(self, name: str, *, wait: bool = False) -> AbstractContextManager[Any]:
        """Take an exclusive lock, let go on exit; raise CheckpointError if another has it."""

    def sweep(self) -> int:
        """Remove what unfinished writes left behind."""


class CheckpointLog:
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
        self.store = store
        self.keep = keep
        self._report = report or _log.warning
        self._clock = clock
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

    # ------------------------------------------------------------------------------------ writing

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
                    tables[name] = self._grow(name, tables.get(name), snapshot, version)
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
            name = _file_name("segments", manifest.version, table, "arrow")
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
            with self._lock("tags", wait=True):
                self._sweep()

    def close(self) -> None:
        """Let another log write. Closing twice is no error."""
        with self._mutex:
            if self._owned is not None:
                self._owned.close()
            self._owned = None
            self._parent = None
            self._merged.clear()

    # ------------------------------------------------------------------------------------ reading

    def versions(self) -> list[int]:
        """Return the numbers of all versions, oldest first, damaged ones included."""
        found = (manifest_version(name) for name in self.store.names("manifests/"))
        return [version for version in found if version is not None]

    def read(self, version: int) -> Manifest:
        """Return the manifest of a version; the files that it names are not looked at.

        Raises
        ------
        DamagedError
            If the manifest is missing or changed.
        CheckpointError
            If a newer onstream wrote it.
        """
        return read_manifest(self.store, version)

    def newest(self, tag: str | None = None, *, verify: bool = False) -> Manifest | None:
        """Return the newest whole version: its manifest reads, and each of its files is there.

        Parameters
        ----------
        tag : str, optional
            Look at the version of this tag alone.
        verify : bool
            Whether to check every byte of every file, or sizes alone.

        Returns
        -------
        Manifest or None
            None if there is no version, or no such tag.

        Raises
        ------
        DamagedError
            If the tagged version is damaged. Without `tag`, damaged versions are reported and passed over.
        CheckpointError
            If a version was written by a newer onstream.
        """
        if tag is not None:
            version = self.tags().get(tag)
            try:
                return None if version is None else self._whole(version, verify=verify)
            except DamagedError:
                if self.tags().get(tag) == version:
                    raise
            # The tag moved while we looked, and the version may have been removed since.
            return self.newest(tag, verify=verify)
        overtaken = False
        for version in reversed(self.versions()):
            try:
                return self._whole(version, verify=verify)
            except DamagedError as error:
                if version in self.versions():
                    self._report(f"version {version} is damaged and passed over: {error}")
                else:
                    # The writer removed it while we looked, so there is a newer one by now.
                    overtaken = True
        return self.newest(verify=verify) if overtaken else None

    def rows(
        self,
        manifest: Manifest,
        table: str,
        *,
        columns: Collection[str] | None = None,
        segments: Collection[SegmentFile] | None = None,
        verify: bool = True,
    ) -> Iterator[Delta]:
        """Return the rows of a table as deltas to be applied in order: later ones overwrite and delete.

        Parameters
        ----------
        manifest : Manifest
        table : str
        columns : collection of {"seen", "count", "weights", "state"}, optional
            What to read beside keys and deletions; all by default. Other columns read as zeros.
        segments : collection of SegmentFile, optional
            Read these alone, such as those that `Chain.after` returned.
        verify : bool
            Whether to check every byte, or sizes alone.

        Returns
        -------
        iterator of Delta
            One for each segment and partition, oldest segment first; read-only views of mapped files.

        Raises
        ------
        DamagedError
            If a file is missing or changed; the message names it. Files are opened and checked before this
            returns, so that nothing is loaded by half.
        CheckpointError
            If there is no such table.
        """
        return self.tables(manifest, {table: segments}, columns=columns, verify=verify)[table]

    def tables(
        self,
        manifest: Manifest,
        wanted: Mapping[str, Collection[SegmentFile] | None],
        *,
        columns: Collection[str] | None = None,
        verify: bool = True,
    ) -> dict[str, Iterator[Delta]]:
        """Return the rows of several tables, for each as `rows` does.

        Parameters
        ----------
        manifest : Manifest
        wanted : mapping of str to collection of SegmentFile, or None
            The tables, and which of their segments to read; None for all.
        columns, verify
            As for `rows`.

        Notes
        -----
        All files are opened before any is checked: checking takes long, and what is open stays readable when
        the writer removes the version meanwhile.
        """
        if missing := sorted(set(wanted) - set(manifest.tables)):
            raise CheckpointError(
                f"version {manifest.version} has no table {missing[0]!r}; it has {sorted(manifest.tables)}"
            )
        opened = []
        for table, segments in wanted.items():
            chain = manifest.tables[table]
            entries = chain.segments if segments is None else segments
            opened.append((table, chain.shape, [(e, load(self.store, e, verify=False)) for e in entries]))
        if verify:
            for _, _, files in opened:
                for entry, data in files:
                    check(data, entry)
        return {
            table: _partitions(shape, [segment_of(data, e, shape, columns=columns) for e, data in files])
            for table, shape, files in opened
        }

    def states(self, manifest: Manifest, name: str, *, prefix: str = "") -> State:
        """Return a state of a version, checked.

        Parameters
        ----------
        manifest : Manifest
        name : str
        prefix : str
            Return the arrays alone whose names begin with this, and all facts. Other arrays take no memory.

        Raises
        ------
        DamagedError
            If its file is missing or changed; the message names it.
        CheckpointError
            If there is no such state.
        """
        if name not in manifest.states:
            raise CheckpointError(
                f"version {manifest.version} has no state {name!r}; it has {sorted(manifest.states)}"
            )
        return read_state(self.store, manifest.states[name], prefix=prefix)

    def verify(self, version: int | None = None) -> list[str]:
        """Check every byte of a version, or of all, and return what is wrong, a sentence for each problem."""
        problems = []
        checked: set[StoredFile] = set()
        for number in self.versions() if version is None else [version]:
            try:
                files = list(read_manifest(self.store, number).files())
            except CheckpointError as error:
                problems.append(f"version {number}: {error}")
                continue
            for file in files:
                if file not in checked:
                    checked.add(file)
                    try:
                        load(self.store, file)
                    except CheckpointError as error:
                        problems.append(f"version {number}: {error}")
        return problems

    # --------------------------------------------------------------------------------------- tags

    def tag(self, name: str, version: int) -> Tag:
        """Point a tag to a version and hold it there: the version stays, and `publish` leaves the tag alone.

        Raises
        ------
        DamagedError
            If the version is missing or not whole.
        CheckpointError
            If the name is not allowed or the tag cannot be written.

        Notes
        -----
        Readers see the old version or the new one. May be called while another log writes.
        """
        with self._lock("tags", wait=True):
            self._whole(version, verify=False)
            return self._move_tag(name, version, held=True)

    def publish(self, name: str, version: int) -> Tag:
        """Point a tag to a version unless it is held, and return where it points now.

        Raises
        ------
        DamagedError
            If the version is missing or its manifest is changed, or the tag's own file is.
        CheckpointError
            If the name is not allowed or the tag cannot be written.
        """
        with self._lock("tags", wait=True):
            read_manifest(self.store, version)
            tag = read_tag(self.store, name)
            return tag if tag is not None and tag.held else self._move_tag(name, version, held=False)

    def roll_back_tag(self, name: str, which: str | int | None = None) -> Tag:
        """Point a tag back to the version that it pointed to before, and hold it there until `release`.

        Parameters
        ----------
        name : str
        which : str or int, optional
            The version, or a tag that points to it; by default the newest one where the tag was before that is
            still whole.

        Raises
        ------
        CheckpointError
            If there is no such tag or version, or the tag cannot be written.

        Notes
        -----
        May be called while another log writes. Called again, it goes one version further back.
        """
        with self._lock("tags", wait=True):
            tag = self._tag(name)
            if which is not None:
                version = self._whole(self.resolve(which), verify=False).version
            else:
                version = self._version_before(tag)
            tag = tag.moved_back(version, self._clock())
            write_tag(self.store, tag)
            return tag

    def release(self, name: str) -> Tag:
        """Let `publish` move a tag again, and return where it points until then.

        Raises
        ------
        CheckpointError
            If there is no such tag, or it cannot be written.
        """
        with self._lock("tags", wait=True):
            tag = replace(self._tag(name), held=False)
            write_tag(self.store, tag)
            return tag

    def untag(self, name: str) -> None:
        """Remove a tag; a missing one is no error."""
        with self._lock("tags", wait=True):
            remove_tag(self.store, name)

    def tags(self) -> dict[str, int]:
        """Return every tag and its version.

        Raises
        ------
        DamagedError
            If the file of a tag is changed; the message names it.
        """
        return {name: tag.version for name, tag in read_tags(self.store).items()}

    def tag_details(self) -> dict[str, Tag]:
        """Return every tag with what it remembers: whether it is held, and where it pointed before.

        Raises
        ------
        DamagedError
            If the file of a tag is changed; the message names it.
        """
        return read_tags(self.store)

    def resolve(self, which: str | int | None = None) -> int:
        """Return the version that a tag or number means; the newest whole one for None.

        Raises
        ------
        CheckpointError
            If there is no such tag or version.
        """
        if which is None:
            manifest = self.newest()
            if manifest is None:
                raise CheckpointError("the store holds no whole version")
            return manifest.version
        if re.fullmatch(r"[0-9]{1,20}", str(which)):
            if int(which) not in (versions := self.versions()):
                raise CheckpointError(f"there is no version {which}; versions are {versions}")
            return int(which)
        # Of this tag alone: another one that is damaged is none of its followers' business.
        tag = read_tag(self.store, str(which)) if is_tag_name(str(which)) else None
        if tag is None:
            raise CheckpointError(f"there is no tag {which!r}; tags are {self.tags()}")
        return tag.version

    # ------------------------------------------------------------------------------------ helpers

    def _own(self) -> None:
        """Become the one writer."""
        if self._owned is not None:
            return
        with contextlib.ExitStack() as stack:
            if isinstance(self.store, Lockable):
                stack.enter_context(self.store.lock("writer"))
                # Tags are written without the writer's lock: none may be in the making while leftovers go.
                with self._lock("tags", wait=True):
                    self.store.sweep()
            self._fresh = not self.versions()
            self._owned = stack.pop_all()

    def _lock(self, name: str, *, wait: bool) -> AbstractContextManager[Any]:
        if isinstance(self.store, Lockable):
            return self.store.lock(name, wait=wait)
        return contextlib.nullcontext()

    def _sweep(self) -> None:
        stays = self._tagged()
        if self._parent is not None:
            stays.add(self._parent.version)
        kept: list[Manifest] = []
        oldest = 0
        for version in reversed(self.versions()):
            if version < oldest and version not in stays:
                self.store.remove(manifest_name(version))
                continue
            # A damaged version does not count, so that it never takes the place of a whole one.
            with contextlib.suppress(DamagedError):
                kept.append(read_manifest(self.store, version))
                oldest = version if len(kept) == self.keep else oldest
        needed = {file.name for manifest in kept for file in manifest.files()}
        needed |= self._in_flight | {merged.name for _, merged in self._merged}
        for folder in _FOLDERS:
            for name in self.store.names(folder):
                if name not in needed:
                    self.store.remove(name)

    def _tagged(self) -> set[int]:
        """Return the versions that tags keep: where each points, and where it would be rolled back to."""
        versions = set(self.versions())
        stays = set()
        for tag in read_tags(self.store).values():
            stays.add(tag.version)
            stays |= set([move.version for move in tag.before if move.version in versions][:1])
        return stays

    def _tag(self, name: str) -> Tag:
        tag = read_tag(self.store, name)
        if tag is None:
            raise CheckpointError(f"there is no tag {name!r}; tags are {self.tags()}")
        return tag

    def _move_tag(self, name: str, version: int, *, held: bool) -> Tag:
        # A damaged tag is set anew: that is how it is mended.
        try:
            tag = read_tag(self.store, name)
        except DamagedError:
            tag = None
        now = self._clock()
        tag = tag.moved(version, now, held=held) if tag else Tag(name, version, now, held)
        write_tag(self.store, tag)
        return tag

    def _version_before(self, tag: Tag) -> int:
        versions = set(self.versions())
        for move in tag.before:
            if move.version in versions:
                with contextlib.suppress(DamagedError):
                    return self._whole(move.version, verify=False).version
        raise CheckpointError(
            f"tag {tag.name!r} points to version {tag.version}, and no version where it pointed before is "
            f"still there; choose one of {sorted(versions)}"
        )

    def _next_version(self) -> int:
        return max(self.versions(), default=0) + 1

    def _chains(self) -> dict[str, Chain]:
        """Return the chains of the parent, with merged segments in the place of theirs."""
        tables = dict(self._parent.tables) if self._parent else {}
        for table, merged in self._merged:
            if table in tables:
                tables[table] = tables[table].adopt(merged)
        return tables

    def _grow(self, name: str, chain: Chain | None, snapshot: Snapshot, version: int) -> Chain:
        """Return a table's chain with the snapshot's delta at its end."""
        facts = chain.facts if chain else {}
        facts = plain(snapshot.table_facts.get(name, facts), f"facts of table {name!r}")
        delta = snapshot.tables.get(name)
        if delta is None:
            if chain is None:
                raise CheckpointError(f"there are facts of table {name!r} and no such table")
            return replace(chain, facts=facts)
        shape = shape_of(name, delta)
        if chain is None or name in snapshot.replace:
            chain = Chain(shape, facts, ())
        if chain.shape != shape:
            raise CheckpointError(
                f"table {name!r} has {chain.shape} in the checkpoint and {shape} in this snapshot; "
                f"load and save it anew with replace={{{name!r}}}"
            )
        added: tuple[SegmentFile, ...] = ()
        if len(delta.keys) or len(delta.deleted):
            file = _file_name("segments", version, name, "arrow")
            added = (write_segment(self.store, file, delta, table=name),)
        return Chain(shape, facts, chain.segments + added)

    def _put_state(self, name: str, state: State, version: int) -> StoredFile:
        before = self._parent.states.get(name) if self._parent else None
        if before is not None and (written := self._written.get(name)) and written() is state:
            return before
        data = state_bytes(name, state)
        if before is not None and (before.size_bytes, before.checksum) == (len(data), digest(data)):
            return before
        return put(self.store, _file_name("states", version, name, "safetensors"), [data])

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

    def _whole(self, version: int, *, verify: bool) -> Manifest:
        manifest = read_manifest(self.store, version)
        for file in manifest.files():
            load(self.store, file, verify=verify)
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


def _partitions(shape: TableShape, segments: Sequence[Segment]) -> Iterator[Delta]:
    return (segment.partition(p) for segment in segments for p in range(shape.partitions))


def _file_name(folder: str, version: int, name: str, suffix: str) -> str:
    """Return a file name that is never used twice, so that no reader ever sees a file change."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return f"{folder}/{version:020d}-{readable}-{secrets.token_hex(4)}.{suffix}"

"""Versions of a store as they are read: which there are, which of them are whole, and what they hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from onstream.checkpoints.files import StoredFile, check, load
from onstream.checkpoints.manifest import Manifest, manifest_versions, read_manifest
from onstream.checkpoints.segments import Segment, SegmentFile, TableShape, segment_of
from onstream.checkpoints.states import read_state
from onstream.checkpoints.tags import Tag, is_tag_name, read_tag, read_tags
from onstream.contracts import Delta, State, Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["Versions"]


class Versions:
    """The versions of a store, to be read; nothing is changed, and no lock is needed.

    Parameters
    ----------
    store : Store
    report : callable
        Receives one sentence for each damaged version that is passed over.
    """

    def __init__(self, store: Store, report: Callable[[str], None]) -> None:
        self.store = store
        self._report = report

    def versions(self) -> list[int]:
        """Return the numbers of all versions, oldest first, damaged ones included."""
        return manifest_versions(self.store)

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

    def _whole(self, version: int, *, verify: bool) -> Manifest:
        manifest = read_manifest(self.store, version)
        for file in manifest.files():
            load(self.store, file, verify=verify)
        return manifest


def _partitions(shape: TableShape, segments: Sequence[Segment]) -> Iterator[Delta]:
    return (segment.partition(p) for segment in segments for p in range(shape.partitions))

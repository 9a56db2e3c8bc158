"""Versions whose tags can be moved: forward, held, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

from onstream.checkpoints.manifest import read_manifest
from onstream.checkpoints.store import locked
from onstream.checkpoints.tags import Tag, read_tag, remove_tag, write_tag
from onstream.checkpoints.versions import Versions
from onstream.contracts import Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["TaggedVersions"]


class TaggedVersions(Versions):
    """Versions whose tags can be moved while another process writes.

    Parameters
    ----------
    store, report
        As for `Versions`.
    clock : callable
        Seconds since 1970, for what tags remember.
    """

    def __init__(self, store: Store, report: Callable[[str], None], clock: Callable[[], float]) -> None:
        super().__init__(store, report)
        self._clock = clock

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
        with locked(self.store, "tags", wait=True):
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
        with locked(self.store, "tags", wait=True):
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
        with locked(self.store, "tags", wait=True):
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
        with locked(self.store, "tags", wait=True):
            tag = replace(self._tag(name), held=False)
            write_tag(self.store, tag)
            return tag

    def untag(self, name: str) -> None:
        """Remove a tag; a missing one is no error."""
        with locked(self.store, "tags", wait=True):
            remove_tag(self.store, name)

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

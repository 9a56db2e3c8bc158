"""Retention: which versions stay, and the removal of the others and of files that no version needs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from onstream.checkpoints.manifest import Manifest, manifest_name, manifest_versions, read_manifest
from onstream.checkpoints.tags import read_tags
from onstream.contracts import Store
from onstream.errors import DamagedError

__all__ = ["remove_old"]

_FOLDERS = ("segments/", "states/")


def remove_old(store: Store, *, keep: int, parent: Manifest | None, in_flight: Collection[str]) -> None:
    """Remove old versions, then the files that neither the others nor `in_flight` name.

    The newest `keep` whole versions stay, `parent`, and those that tags need.
    """
    stays = _tagged(store)
    if parent is not None:
        stays.add(parent.version)
    kept: list[Manifest] = []
    oldest = 0
    for version in reversed(manifest_versions(store)):
        if version < oldest and version not in stays:
            store.remove(manifest_name(version))
            continue
        # A damaged version does not count, so that it never takes the place of a whole one.
        with contextlib.suppress(DamagedError):
            kept.append(read_manifest(store, version))
            oldest = version if len(kept) == keep else oldest
    needed = {file.name for manifest in kept for file in manifest.files()} | set(in_flight)
    for folder in _FOLDERS:
        for name in store.names(folder):
            if name not in needed:
                store.remove(name)


def _tagged(store: Store) -> set[int]:
    """Return the versions that tags keep: where each points, and where it would be rolled back to."""
    versions = set(manifest_versions(store))
    stays = set()
    for tag in read_tags(store).values():
        stays.add(tag.version)
        stays |= set([move.version for move in tag.before if move.version in versions][:1])
    return stays

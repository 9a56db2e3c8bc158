"""Tags: names such as "production" that point to a version."""

from __future__ import annotations

import re
from typing import Any

from onstream.checkpoints.files import read_sealed, seal
from onstream.contracts import Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["read_tags", "remove_tag", "write_tag"]

_FOLDER = "tags/"
# A tag begins with a letter, so that it is never taken for a version number.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


def read_tags(store: Store) -> dict[str, int]:
    """Return every tag and its version.

    Raises
    ------
    DamagedError
        If the file of a tag is changed; the message names it.
    """
    return {file[len(_FOLDER) :]: _read(store, file) for file in store.names(_FOLDER)}


def write_tag(store: Store, name: str, version: int) -> None:
    """Point a tag to a version: readers see the old version or the new one."""
    store.write(_file(name), [seal({"tag": name, "version": version})])


def remove_tag(store: Store, name: str) -> None:
    """Remove a tag; a missing one is no error."""
    store.remove(_file(name))


def _file(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"tag {name!r} must begin with a letter and have at most 64 letters, digits, '_', '.' and '-'"
        )
    return _FOLDER + name


def _read(store: Store, file: str) -> int:
    content: Any = read_sealed(store, file)
    match content:
        case {"tag": str(name), "version": int(version)} if len(content) == 2 and _FOLDER + name == file:
            return version
    raise DamagedError(f"checkpoint file {file!r} is no tag of that name: {content!r}; set the tag again")

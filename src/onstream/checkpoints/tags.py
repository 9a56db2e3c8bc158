"""Tags: names such as "production" that point to a version, and remember where they pointed before."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from onstream.checkpoints.files import read_sealed, seal
from onstream.contracts import Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["Move", "Tag", "is_tag_name", "read_tag", "read_tags", "remove_tag", "write_tag"]

_FOLDER = "tags/"
# A tag begins with a letter, so that it is never taken for a version number.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MOST_MOVES = 16


@dataclass(frozen=True, slots=True)
class Move:
    """A version that a tag pointed to.

    Attributes
    ----------
    version : int
    since : float
        When the tag was moved there, seconds since 1970.
    """

    version: int
    since: float


@dataclass(frozen=True, slots=True)
class Tag:
    """Where a tag points.

    Attributes
    ----------
    name : str
    version : int
    since : float or None
        When it was moved there, seconds since 1970; None if that was not written down.
    held : bool
        Whether a person moved it there: publishing leaves it alone until it is released.
    before : tuple of Move
        Where it pointed before, newest first; at most 16. Each is a version to roll back to, as long as it is
        there.
    """

    name: str
    version: int
    since: float | None = None
    held: bool = False
    before: tuple[Move, ...] = ()

    def moved(self, version: int, now: float, *, held: bool) -> Tag:
        """Return the tag, pointing to another version from `now` on."""
        if version == self.version:
            return Tag(self.name, version, self.since, held, self.before)
        left = Move(self.version, self.since if self.since is not None else now)
        return Tag(self.name, version, now, held, (left, *self.before)[:_MOST_MOVES])

    def moved_back(self, version: int, now: float) -> Tag:
        """Return the tag, held at an older version; what it pointed to since is forgotten."""
        at = next((i for i, move in enumerate(self.before) if move.version == version), None)
        before = self.before if at is None else self.before[at + 1 :]
        return Tag(self.name, version, now, True, before)


def is_tag_name(name: str) -> bool:
    """Return whether a tag may be called so: a letter, then at most 63 letters, digits, "_", "." and "-"."""
    return _NAME.fullmatch(name) is not None


def read_tags(store: Store) -> dict[str, Tag]:
    """Return every tag.

    Raises
    ------
    DamagedError
        If the file of a tag is changed; the message names it.
    """
    found = (_read(store, file) for file in store.names(_FOLDER))
    return {tag.name: tag for tag in found if tag is not None}


def read_tag(store: Store, name: str) -> Tag | None:
    """Return a tag, None if there is none of that name.

    Raises
    ------
    DamagedError
        If its file is changed; the message names it.
    """
    return _read(store, _file(name))


def write_tag(store: Store, tag: Tag) -> None:
    """Write a tag in the place of the one of its name: readers see the old one or the new one."""
    content = {
        "tag": tag.name,
        "version": tag.version,
        "since": tag.since,
        "held": tag.held,
        "before": [[move.version, move.since] for move in tag.before],
    }
    store.write(_file(tag.name), [seal(content)])


def remove_tag(store: Store, name: str) -> None:
    """Remove a tag; a missing one is no error."""
    store.remove(_file(name))


def _file(name: str) -> str:
    if not is_tag_name(name):
        raise CheckpointError(
            f"tag {name!r} must begin with a letter and have at most 64 letters, digits, '_', '.' and '-'"
        )
    return _FOLDER + name


def _read(store: Store, file: str) -> Tag | None:
    """Return the tag of a file; None if the file was removed since it was listed."""
    content: Any = read_sealed(store, file, missing_ok=True)
    if content is None:
        return None
    tag = _tag(content)
    if tag is None or _FOLDER + tag.name != file:
        raise DamagedError(
            f"checkpoint file {file!r} is no tag of that name: {content!r:.500}; set the tag again"
        )
    return tag


def _tag(content: Any) -> Tag | None:
    """Return the content of a tag's file as a tag, None if it is no such content."""
    match content:
        # As written before tags remembered anything.
        case {"tag": str(name), "version": int(version)} if len(content) == 2:
            tag = Tag(name, version)
        case {
            "tag": str(name),
            "version": int(version),
            "since": None | float() | int() as since,
            "held": bool(held),
            "before": list(before),
        } if len(content) == 5:
            moves = [_move(move) for move in before]
            if len(moves) > _MOST_MOVES or None in moves or not (since is None or _is_time(since)):
                return None
            tag = Tag(name, version, since, held, tuple(move for move in moves if move))
        case _:
            return None
    return tag if _is_version(tag.version) and _NAME.fullmatch(tag.name) else None


def _move(value: Any) -> Move | None:
    match value:
        case [int(version), float() | int() as since] if _is_version(version) and _is_time(since):
            return Move(version, since)
    return None


def _is_version(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)

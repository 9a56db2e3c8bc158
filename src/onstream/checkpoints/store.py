"""Checkpoint files on a local disk: every file is durable, and visible whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa

from onstream.contracts import Store
from onstream.errors import CheckpointError

__all__ = ["LocalStore", "Lockable", "is_file_name", "is_text", "locked"]

_TEMPORARY = ".tmp"


class LocalStore:
    """A folder of checkpoint files; every file in it is durable, and visible whole or not at all.

    Parameters
    ----------
    root : path
        Made by the first write. Reading from a folder that does not exist finds nothing.

    Notes
    -----
    A file is written under ``.tmp/``, synced, renamed to its name, and the folder is synced: a crash at any
    moment leaves the old file or the new one. Names that begin with a dot belong to the store itself. Any
    number of threads and processes may read and write at the same time.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def write(self, name: str, parts: Iterable[bytes | memoryview | pa.Buffer]) -> int:
        """Write `parts` as one file, durable and visible whole or not at all.

        Parameters
        ----------
        name : str
            Relative, with "/" between parts. A file of that name is replaced.
        parts : iterable of bytes-like
            Taken once, in order, as they are written, so that a file may be larger than memory.

        Returns
        -------
        int
            Size in bytes.

        Raises
        ------
        CheckpointError
            If the name leaves the store, or the disk refuses (full, quota, file too large, read-only). What
            stood under `name` before stands there still; only where the disk fails at the very last, at making the
            new name durable, does the new file stand there, and the message says so.
        """
        path = self._path(name)
        temporary = self.root / _TEMPORARY / secrets.token_hex(8)
        try:
            _make_folder(temporary.parent)
            _make_folder(path.parent)
            try:
                size = _write_synced(temporary, parts)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            try:
                _sync_folder(path.parent)
            except OSError as error:
                raise CheckpointError(
                    f"{name!r} is written in {str(self.root)!r}, but the disk does not keep its name: "
                    f"{error.strerror or error}; it is there now, and may be gone when the machine fails: check the "
                    f"disk and try again"
                ) from error
        except CheckpointError:
            # A lazy part that could not be made, such as a row of a damaged input, says so itself.
            raise
        except OSError as error:
            raise self._refused(f"cannot write {name!r}", error) from error
        return size

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, memory-mapped.

        Raises
        ------
        FileNotFoundError
            If there is none of that name.
        CheckpointError
            If the name leaves the store, or is that of a folder or a device.
        """
        path = self._path(name)
        found = path.stat()
        # Opening a pipe would wait for somebody to write to it.
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(f"{name!r} in {str(self.root)!r} is no file")
        # An empty file cannot be mapped.
        return pa.memory_map(str(path), "r") if found.st_size else pa.OSFile(str(path), "r")

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted. Links and names that are no text are not of this store."""
        folder = self.root.joinpath(*prefix.split("/")[:-1])
        inner = prefix[: prefix.rfind("/") + 1]
        return sorted(name for name in _names(str(folder), inner) if name.startswith(prefix))

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error.

        Raises
        ------
        CheckpointError
            If the name leaves the store, or the disk refuses.
        """
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(f"cannot remove {name!r}", error) from error

    def lock(self, name: str, *, wait: bool = False) -> FileIO:
        """Take an exclusive lock; closing what is returned lets go, and so does the end of the process.

        Parameters
        ----------
        name : str
        wait : bool
            Whether to wait for the holder or to raise.

        Raises
        ------
        CheckpointError
            If another log or process holds it, or the folder cannot be written.
        """
        path = self._path(name).with_name(f".{name}.lock")
        try:
            _make_folder(self.root)
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")
        except OSError as error:
            raise self._refused("cannot lock", error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        except BlockingIOError:
            holder = file.read(20).decode(errors="replace") or "unknown"
            file.close()
            raise CheckpointError(
                f"{str(self.root)!r} is being written by another job (process {holder}); "
                f"one writer at a time: stop it, or use another folder"
            ) from None
        except OSError as error:
            file.close()
            raise self._refused("cannot lock", error) from error
        return file

    def sweep(self) -> int:
        """Remove what unfinished writes left behind, and return how many files that were.

        Notes
        -----
        Only whoever knows that nobody is writing may call this; `CheckpointLog` does so under its locks.
        """
        folder = self.root / _TEMPORARY
        left = list(folder.iterdir()) if folder.is_dir() else []
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _refused(self, what: str, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{what} in {str(self.root)!r}: {error.strerror or error}; "
            f"no file was changed, make room or check the folder and try again"
        )

    def _path(self, name: str) -> Path:
        """Return the path of a name that does not leave the root."""
        parts = name.split("/")
        if not is_file_name(name):
            raise CheckpointError(
                f"file name {name!r:.500} is not allowed in {str(self.root)!r}: "
                f"names are relative, without '..', backslash, NUL or a leading dot"
            )
        path = self.root.joinpath(*parts)
        real, root = os.path.realpath(path), os.path.realpath(self.root)
        if os.path.commonpath([real, root]) != root:
            raise CheckpointError(
                f"file name {name!r} leads out of {str(self.root)!r} to {real!r}; remove the link"
            )
        return path


@runtime_checkable
class Lockable(Protocol):
    """A store that can keep a second writer out, as `LocalStore` does."""

    def lock(self, name: str, *, wait: bool = False) -> AbstractContextManager[Any]:
        """Take an exclusive lock, let go on exit; raise CheckpointError if another has it."""

    def sweep(self) -> int:
        """Remove what unfinished writes left behind."""


def locked(store: Store, name: str, *, wait: bool) -> AbstractContextManager[Any]:
    """Take a lock of the store; a store without locks needs none."""
    if isinstance(store, Lockable):
        return store.lock(name, wait=wait)
    return contextlib.nullcontext()


def is_file_name(name: str) -> bool:
    """Return whether a name is one that a store can have: relative, and not leaving it."""
    parts = name.split("/")
    return (
        "\\" not in name
        and "\0" not in name
        and is_text(name)
        and not any(not part or part.startswith(".") for part in parts)
    )


def is_text(name: str) -> bool:
    """Return whether a name can be encoded: JSON and file systems may have halves of characters in it."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _names(folder: str, inner: str) -> Iterator[str]:
    """Yield the names of a folder and of those in it, each after `inner`.

    No `Path` a file: Python interns each part of one, and keeps the room that all names have ever taken.
    """
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except FileNotFoundError:
        return
    except OSError as error:
        # It must not look empty: a log would begin anew in it.
        raise CheckpointError(f"cannot list {folder!r}: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.is_symlink() or not is_text(entry.name):
            continue
        if entry.is_dir():
            yield from _names(entry.path, f"{inner}{entry.name}/")
        else:
            yield inner + entry.name


def _write_synced(path: Path, parts: Iterable[bytes | memoryview | pa.Buffer]) -> int:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _make_folder(path: Path) -> None:
    """Make a folder and its parents, each durable before anything lies in it."""
    if path.is_dir():
        return
    if path.parent != path:
        _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

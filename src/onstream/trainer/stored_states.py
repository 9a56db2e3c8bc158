"""States of a checkpoint, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onstream.checkpoints import CheckpointLog, Manifest
from onstream.contracts import State

__all__ = ["StoredCapture", "StoredStates"]


class StoredStates(Mapping[str, State]):
    """The states of a version whose names begin with a prefix, by what follows it.

    Parameters
    ----------
    log : CheckpointLog
    manifest : Manifest
    prefix : str

    Notes
    -----
    Nothing that was read is kept, so that states larger than memory can be taken one by one.
    """

    def __init__(self, log: CheckpointLog, manifest: Manifest, prefix: str) -> None:
        self._log = log
        self._manifest = manifest
        self._prefix = prefix
        self._names = [name.removeprefix(prefix) for name in manifest.states if name.startswith(prefix)]

    def __getitem__(self, name: str) -> State:
        """Return a state, checked; KeyError if there is none, DamagedError if its file is not as it was."""
        if name not in self._names:
            raise KeyError(name)
        return self._log.states(self._manifest, self._prefix + name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class StoredCapture:
    """What a stream remembered in a version: it counts until the stream has said something newer.

    Parameters
    ----------
    states : mapping of str to State

    Notes
    -----
    Read when the first checkpoint is made that needs it, as long as the version is there, and kept from then on.
    """

    def __init__(self, states: Mapping[str, State]) -> None:
        self._stored = states
        self._read: dict[str, State] | None = None

    def states(self) -> Mapping[str, State]:
        """Return all of it, by name."""
        if self._read is None:
            self._read = dict(self._stored)
        return self._read

    def figures(self) -> dict[str, float]:
        """Return nothing: no one has read the stream yet."""
        return {}

"""Pauses: learning stands still until a person says to go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onstream.checkpoints import LocalStore
from onstream.contracts import Batch
from onstream.errors import JobError
from onstream.trainer.guard import Guard

__all__ = ["PAUSED", "Pause", "Pausing", "read_pause", "resume"]

PAUSED = "paused.json"
"""The file of a model directory that is there while, and only while, its job is paused."""

# How often a paused job looks whether it may go on.
_LOOK_EVERY_S = 0.2
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Pause:
    """Why a job is paused.

    Attributes
    ----------
    reason : str
    since : float
        Seconds since 1970.
    examples : int
        Rows that were learned before.
    resumed : bool
        Whether the job was told to go on, and has not yet.
    """

    reason: str
    since: float
    examples: int
    resumed: bool = False


def read_pause(directory: str | Path) -> Pause | None:
    """Return the pause of the job of a model directory, None if it is not paused.

    Any process may call this at any time. A file that cannot be read is a pause too.
    """
    try:
        path = Path(directory) / PAUSED
        with path.open("rb") as file:
            content: Any = json.loads(file.read(_MOST_BYTES))
        match content:
            case {
                "reason": str(reason),
                "since": float() | int() as since,
                "examples": int(examples),
                "resumed": bool(resumed),
            }:
                return Pause(reason, since, examples, resumed)
        raise ValueError("it is not as a job writes it")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        return Pause(f"{PAUSED} cannot be read: {error}", 0.0, 0)


def resume(directory: str | Path) -> Pause:
    """Let a paused job go on, whether it runs now or is started later; return the pause that ends.

    Raises
    ------
    JobError
        If it is not paused.
    CheckpointError
        If the directory cannot be written.
    """
    pause = read_pause(directory)
    if pause is None:
        raise JobError(f"the job of {str(directory)!r} is not paused")
    store = LocalStore(directory)
    # A job that starts now clears away unfinished files, but not under this lock.
    with store.lock("tags", wait=True):
        _write(store, replace(pause, resumed=True))
    return pause


class Pausing:
    """Stand still before a batch that the guard refuses, until `resume` is called from anywhere.

    Parameters
    ----------
    directory : path
    guard : Guard, optional
        Without one there are no pauses.
    note : callable
        Receives a sentence when a pause begins and ends.

    Notes
    -----
    The pause is a durable file before anything else happens, so a job that is stopped or killed while paused is
    paused when it starts again. The refused batch is not learned from, and its rows are read again if the job
    is started again. After a pause the guard knows nothing: it learns anew what is usual.
    """

    def __init__(self, directory: str | Path, guard: Guard | None, note: Callable[[str], None]) -> None:
        self._directory = Path(directory)
        self._guard = guard
        self._note = note
        self._pause: Pause | None = None

    @property
    def reason(self) -> str | None:
        """Why learning stands still; None if it does not."""
        return self._pause.reason if self._pause else None

    def begin(self) -> None:
        """Take up the pause in which the job was stopped, if there was one."""
        self._pause = read_pause(self._directory)
        if self._pause is None:
            return
        if self._guard is None:
            self._note(f"not paused any more, since the job has no guard: {self._pause.reason}")
            self._end()
        elif not self._pause.resumed:
            self._note(f"still paused: {self._pause.reason}; {self._what_to_do()}")

    def refuses(self, batch: Batch, examples: int) -> bool:
        """Return whether a pause begins before this batch."""
        reason = self._guard.refusal(batch) if self._guard and batch.num_rows else None
        if reason is not None:
            self._pause = Pause(reason, time.time(), examples)
            _write(LocalStore(self._directory), self._pause)
            self._note(f"paused after {examples:,} examples: {reason}; {self._what_to_do()}")
        return self._pause is not None

    def wait(self, stop: threading.Event, *, tend: Callable[[], None], keep: Callable[[], None]) -> bool:
        """Wait until the pause ends, and return True, or until `stop` is set, and return False.

        Parameters
        ----------
        stop : threading.Event
        tend : callable
            Called every now and then, to report.
        keep : callable
            Makes a checkpoint; called after the guard was reset, before the pause is taken off the disk.
        """
        while self._pause is not None:
            found = read_pause(self._directory)
            if found is None or found.resumed:
                self._note("going on, as told; the guard learns anew what is usual")
                if self._guard:
                    self._guard.reset()
                keep()
                self._end()
                return True
            tend()
            if stop.wait(_LOOK_EVERY_S):
                return False
        return True

    def _end(self) -> None:
        LocalStore(self._directory).remove(PAUSED)
        self._pause = None

    def _what_to_do(self) -> str:
        return f"look at the stream, then `onstream resume {self._directory}` goes on"


def _write(store: LocalStore, pause: Pause) -> None:
    store.write(PAUSED, [json.dumps(asdict(pause)).encode() + b"\n"])

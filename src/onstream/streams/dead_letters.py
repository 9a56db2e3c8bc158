"""Where rejected rows are written, so that they can be looked at and mended."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from onstream.contracts import Reject, State
from onstream.errors import StreamError

__all__ = ["DeadLetters"]

_VALUE_CHARACTERS = 1_000


class DeadLetters:
    """Append rejects to a file of JSON lines: partition, position, reason, value.

    Parameters
    ----------
    path : path
        Made if it is missing, with its directory.
    max_bytes : int, default 64 MiB
        The file does not grow beyond this: a last line says so, and from then on rejects are only counted.

    Notes
    -----
    A job that goes on from a checkpoint calls `truncate` with the `size_bytes` that it saved there (or `load`
    with the `state`, which has the counts too): lines written later are taken back, so each reject is there
    once.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 64 << 20) -> None:
        """Open the file."""
        self.path = Path(path)
        self.max_bytes = max_bytes
        self.counts: Counter[str] = Counter()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b", buffering=0)
        note = f"beyond {max_bytes} bytes rejects are only counted, not written here"
        self._note = _line(Reject("", 0, note))
        self._drop_torn_line()
        self._full = self._ends_with_note()
        # What another process wrote before a crash may not be on disk either.
        self._unsynced = True

    @property
    def size_bytes(self) -> int:
        """The size of the file, for a checkpoint: that much is synced to disk."""
        if self._unsynced:
            os.fsync(self._file.fileno())
            self._unsynced = False
        return self._size()

    def write(self, rejects: Iterable[Reject]) -> None:
        """Count the rejects, and append them while there is room."""
        lines: list[bytes] = []
        room = self.max_bytes - self._size() - len(self._note)
        for reject in rejects:
            self.counts[reject.reason] += 1
            line = _line(reject)
            if not self._full:
                self._full = room < len(line)
                lines.append(self._note if self._full else line)
                room -= len(line)
        try:
            _write_all(self._file.fileno(), b"".join(lines))
        except OSError as error:
            raise StreamError(
                f"dead letters {str(self.path)!r} cannot be written: {error}; make room, then run again"
            ) from error
        self._unsynced = True

    def truncate(self, size_bytes: int) -> None:
        """Take back what was written beyond `size_bytes`. A shorter file stays: its lines are there to be removed."""
        if size_bytes < self.size_bytes:
            os.ftruncate(self._file.fileno(), size_bytes)
        self._full = self._ends_with_note()

    def state(self) -> State:
        """Return the size of the file, synced, and the counts."""
        return State(facts={"size_bytes": self.size_bytes, "counts": dict(self.counts)})

    def load(self, state: State) -> None:
        """Go back to `state`."""
        self.truncate(state.facts["size_bytes"])
        self.counts = Counter(state.facts["counts"])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _ends_with_note(self) -> bool:
        """Return whether the file says that nothing more is written to it."""
        size = len(self._note)
        return os.pread(self._file.fileno(), size, max(0, self._size() - size)) == self._note

    def _drop_torn_line(self) -> None:
        """Remove what a crash left of a line, so that every line is JSON."""
        size = end = self._size()
        while end:
            begin = max(0, end - 65536)
            newline = os.pread(self._file.fileno(), end - begin, begin).rfind(b"\n")
            if newline >= 0:
                end = begin + newline + 1
                break
            end = begin
        if end < size:
            os.ftruncate(self._file.fileno(), end)


def _line(reject: Reject) -> bytes:
    """Return a reject as a line."""
    facts = {
        "partition": reject.partition,
        "position": reject.position,
        "reason": reject.reason,
        "value": reject.value[:_VALUE_CHARACTERS],
    }
    # Kept as ASCII: a value may hold half of a surrogate pair, which UTF-8 cannot.
    return json.dumps(facts).encode() + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    """Append all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]

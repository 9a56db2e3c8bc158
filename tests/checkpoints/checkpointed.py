"""Deltas from plain dicts and back, and stores that stop working, for the tests of checkpoints."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest, Snapshot
from onstream.contracts import Delta, State
from onstream.errors import CheckpointError

PARTITIONS = 4

Row = tuple[int, int, tuple[float, ...], tuple[float, ...]]
"""seen, count, weights, state"""


def row(value: int, dim: int = 2, width: int = 1) -> Row:
    """Return a row whose every part tells `value`."""
    return value, value + 1, tuple(float(value + i) for i in range(dim)), (float(-value),) * width


def to_delta(
    rows: Mapping[int, Row],
    deleted: Iterable[int] = (),
    dim: int = 2,
    width: int = 1,
    partitions: int = PARTITIONS,
) -> Delta:
    """Return a delta of `rows`; a key's partition is its rest by `partitions`."""
    keys = sorted(rows, key=lambda k: (k % partitions, k))
    dropped = sorted(deleted, key=lambda k: (k % partitions, k))

    def bounds(found: list[int]) -> Any:
        return np.searchsorted([k % partitions for k in found], np.arange(partitions + 1)).astype(np.int64)

    return Delta(
        keys=np.array(keys, np.uint64),
        seen=np.array([rows[k][0] for k in keys], np.uint32),
        count=np.array([rows[k][1] for k in keys], np.uint32),
        weights=np.array([rows[k][2] for k in keys], np.float32).reshape(-1, dim)
        if dim
        else _no_floats(keys),
        state=np.array([rows[k][3] for k in keys], np.float32).reshape(-1, width)
        if width
        else _no_floats(keys),
        deleted=np.array(dropped, np.uint64),
        bounds=bounds(keys),
        deleted_bounds=bounds(dropped),
    )


def _no_floats(keys: list[int]) -> Any:
    return np.empty((len(keys), 0), np.float32)


def apply(rows: dict[int, Row], deltas: Iterable[Delta]) -> dict[int, Row]:
    """Apply deltas to `rows`, in order, and return them."""
    for delta in deltas:
        for i, key in enumerate(delta.keys.tolist()):
            floats = tuple(delta.weights[i].tolist()), tuple(delta.state[i].tolist())
            rows[key] = (int(delta.seen[i]), int(delta.count[i]), *floats)
        for key in delta.deleted.tolist():
            rows.pop(key, None)
    return rows


def load(log: CheckpointLog, manifest: Manifest, table: str = "user") -> dict[int, Row]:
    """Return the rows of a version's table."""
    return apply({}, log.rows(manifest, table))


def snapshot(examples: int, rows: Mapping[int, Row], deleted: Iterable[int] = (), **more: Any) -> Snapshot:
    """Return a snapshot of one table, one state and one position, each telling `examples`."""
    return Snapshot(
        tables={"user": to_delta(rows, deleted)},
        states={"learner": State({"w": np.full(3, examples, np.float32)}, {"examples": examples})},
        positions={"clicks": examples},
        facts={"examples": examples},
        **more,
    )


def files(root: Path) -> list[str]:
    """Return every file under `root` that is not a lock."""
    return sorted(
        p.relative_to(root).as_posix()
        for p in root.rglob("*")
        if p.is_file() and not p.name.endswith(".lock")
    )


class PowerCutError(CheckpointError):
    """The store was asked to stop here."""


class FakeStore(LocalStore):
    """A real local store that stops for good, as by a power cut, at the `stop_at`-th change of the disk."""

    def __init__(self, root: Path, stop_at: int | None = None) -> None:
        super().__init__(root)
        self.stop_at = stop_at
        self.changes = 0

    def _change(self) -> None:
        self.changes += 1
        if self.stop_at is not None and self.changes >= self.stop_at:
            raise PowerCutError(f"stopped at change {self.changes}")

    def write(self, name: str, parts: Iterable[bytes | memoryview | pa.Buffer]) -> int:
        self._change()
        return super().write(name, parts)

    def remove(self, name: str) -> None:
        self._change()
        super().remove(name)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

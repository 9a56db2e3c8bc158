"""Compaction: when to merge segments of a chain, and how."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np

from onstream.checkpoints.segments import Segment, SegmentFile, TableShape, open_segment, write_parts
from onstream.contracts import Array, Delta, Store

__all__ = ["StoppedError", "due", "merge"]

_FEWEST_DELTAS = 8


class StoppedError(Exception):
    """A merge was asked to stop; it left nothing behind."""


def due(chain: Sequence[SegmentFile]) -> slice | None:
    """Return which segments of a chain, a base and its deltas, to merge now; None for none.

    Parameters
    ----------
    chain : sequence of SegmentFile
        The base, then deltas, oldest first.

    Returns
    -------
    slice or None
        A suffix of `chain`; it begins at 0 when the base is to be merged too.

    Notes
    -----
    With fewer than 8 deltas nothing is due. The base is merged when its deltas sum to half of it or more.
    Otherwise the longest suffix is, whose oldest member is no larger than the sum of those after it. What
    remains unmerged are deltas each larger than all after it, so a chain has O(log) segments; and what is
    merged again at least doubles or shrinks, so a byte is rewritten O(log) times.

    References
    ----------
    O'Neil, Cheng, Gawlick, O'Neil, "The log-structured merge-tree (LSM-tree)", Acta Informatica 33 (1996).
    """
    sizes = [segment.size_bytes for segment in chain]
    if len(sizes) - 1 < _FEWEST_DELTAS:
        return None
    after = sum(sizes[1:])
    if 2 * after >= sizes[0]:
        return slice(0, len(sizes))
    for i, size in enumerate(sizes[1:-1], start=1):
        after -= size
        if size <= after:
            return slice(i, len(sizes))
    return None


def merge(
    store: Store,
    name: str,
    entries: Sequence[SegmentFile],
    shape: TableShape,
    *,
    drop_deletions: bool,
    stop: threading.Event | None = None,
) -> SegmentFile:
    """Merge segments of a chain that lie side by side into one; the latest row or deletion of a key wins.

    Parameters
    ----------
    store : Store
    name : str
        File name of the new segment.
    entries : sequence of SegmentFile
        Oldest first.
    shape : TableShape
    drop_deletions : bool
        True when the first entry is the base: then there is nothing left that a deletion could delete.
    stop : threading.Event, optional
        Set by another thread to give up before the next partition.

    Raises
    ------
    DamagedError
        If an entry is damaged; damage is never merged under a fresh checksum.
    StoppedError
        If `stop` was set.
    CheckpointError
        If the store cannot write.

    Notes
    -----
    Works partition by partition: memory is a small multiple of the largest one, not of the table.
    """
    segments = [open_segment(store, entry, shape) for entry in entries]

    def parts() -> Iterator[Delta]:
        for p in range(shape.partitions):
            if stop is not None and stop.is_set():
                raise StoppedError(name)
            yield _merge_partition(segments, p, drop_deletions=drop_deletions)

    return write_parts(store, name, shape, parts(), merged=tuple(entry.name for entry in entries))


def _merge_partition(segments: Sequence[Segment], p: int, *, drop_deletions: bool) -> Delta:
    newest_first = [segment.partition(p) for segment in reversed(segments)]
    keys = np.concatenate([array for part in newest_first for array in (part.keys, part.deleted)])
    # `unique` finds the first place of each key, which is its newest.
    wins = np.zeros(len(keys), np.bool_)
    wins[np.unique(keys, return_index=True)[1]] = True

    rows, deleted, start = [], [], 0
    for part in newest_first:
        middle, end = start + len(part.keys), start + len(part.keys) + len(part.deleted)
        rows.append(np.flatnonzero(wins[start:middle]))
        deleted.append(part.deleted[wins[middle:end]])
        start = end

    def gather(columns: list[Array]) -> Array:
        out = np.empty((sum(map(len, rows)), *columns[0].shape[1:]), columns[0].dtype)
        at = 0
        for column, wanted in zip(columns, rows, strict=True):
            # The indices are valid; with mode "raise" numpy would go through a copy of `out`.
            np.take(column, wanted, axis=0, out=out[at : at + len(wanted)], mode="clip")
            at += len(wanted)
        return out

    kept = keys[:0] if drop_deletions else np.concatenate(deleted)
    merged = gather([part.keys for part in newest_first])
    first = newest_first[0]
    after = np.arange(len(first.bounds)) > p
    return Delta(
        keys=merged,
        seen=gather([part.seen for part in newest_first]),
        count=gather([part.count for part in newest_first]),
        weights=gather([part.weights for part in newest_first]),
        state=gather([part.state for part in newest_first]),
        deleted=kept,
        bounds=after * len(merged),
        deleted_bounds=after * len(kept),
    )

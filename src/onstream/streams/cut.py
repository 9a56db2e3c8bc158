"""Cutting the flow of chunks into batches by number of rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.contracts import Capture, Chunk, Positions, Reject
from onstream.streams.ahead import END, Takes
from onstream.streams.chunks import inner_name, positions_after, row_ends

__all__ = ["Cut", "Place", "cut"]

Offsets: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rows of one record batch come from.

    Attributes
    ----------
    partition : str
    starts : ndarray of int64, shape (num_rows,)
        The position from which reading gives this row first. In text, blank and rejected lines may lie
        between it and the row.
    """

    partition: str
    starts: Offsets


@dataclass(frozen=True, slots=True)
class Cut:
    """Some rows of a stream, and where to read on after them.

    Attributes
    ----------
    batches : tuple of pyarrow.RecordBatch
        Each of one partition and one schema.
    positions : Positions
        Where to read on after this cut, for the partitions it touched.
    rejects : tuple of Reject
        Of the range that this cut covers.
    places : tuple of Place
        One for each of `batches`.
    state : Capture, optional
        Of a stateful stream: with it and `positions`, reading goes on after this cut.
    again : bool
        Whether the rows were given before.
    """

    batches: tuple[pa.RecordBatch, ...]
    positions: Positions
    rejects: tuple[Reject, ...]
    places: tuple[Place, ...]
    state: Capture | None = None
    again: bool = False

    @property
    def num_rows(self) -> int:
        """The number of rows of all batches."""
        return sum(batch.num_rows for batch in self.batches)


def cut(
    chunks: Iterable[Chunk] | Takes[Chunk],
    *,
    rows: int,
    positions: Positions | None = None,
    max_wait_s: float | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[Cut]:
    """Cut the flow of chunks into batches of exactly `rows` rows; the last may be shorter.

    Parameters
    ----------
    chunks : iterable of Chunk; with `max_wait_s`, an `Ahead`
    rows : int
    positions : Positions, optional
        Where reading began; the start of the first row of a text is known only with it.
    max_wait_s : float, optional
        Give a shorter batch when its first row (or reject) has waited this long and no chunk is there.
    monotonic : callable, optional
        Seconds that never go back, for `max_wait_s`.

    Yields
    ------
    Cut
        What lies behind the last row comes in a cut without rows; so does what a stateful stream has come to
        remember while it gave none.

    Notes
    -----
    Without `max_wait_s`, cuts depend on the rows alone and not on how they came in chunks: reading on from
    the positions of a cut gives the same following cuts. A cut ends where rows begin that were given before, and
    where they end. Rows are copied only where a batch spans chunks.
    """
    assert rows >= 1
    open_cut = _OpenCut(dict(positions or {}))
    for chunk in _arrivals(chunks, open_cut, max_wait_s, monotonic):
        if chunk is None:
            yield open_cut.close()
            continue
        if open_cut.num_rows and open_cut.again != chunk.again:
            yield open_cut.close()
        open_cut.begin(chunk)
        taken = 0
        while taken < chunk.batch.num_rows:
            taken += open_cut.add(taken, rows - open_cut.num_rows)
            if open_cut.num_rows == rows:
                yield open_cut.close()
        open_cut.finish()
        if chunk.state is not None and not open_cut.num_rows:
            yield open_cut.close()
    if open_cut.positions:
        yield open_cut.close()


def _arrivals(
    chunks: Iterable[Chunk] | Takes[Chunk],
    open_cut: _OpenCut,
    max_wait_s: float | None,
    monotonic: Callable[[], float],
) -> Iterator[Chunk | None]:
    """Yield chunks as they come, and None when the open cut has waited long enough."""
    if max_wait_s is None:
        assert isinstance(chunks, Iterable)
        yield from chunks
        return
    if not hasattr(chunks, "take"):
        raise TypeError("cut(max_wait_s=...) needs chunks that can be waited for; wrap them in Ahead")
    deadline: float | None = None
    while True:
        chunk = chunks.take(None if deadline is None else max(0.0, deadline - monotonic()))
        arrived = monotonic()
        if chunk is END:
            return
        open_cut.fresh = False
        yield chunk
        if not open_cut.waits:
            deadline = None
        elif open_cut.fresh:
            deadline = arrived + max_wait_s


@dataclass
class _OpenCut:
    """The cut that is being filled.

    `fresh` tells that it began with the newest chunk.
    """

    before: Positions
    num_rows: int = 0
    fresh: bool = False
    positions: Positions = field(default_factory=dict)
    state: Capture | None = None
    again: bool = False
    _parts: list[tuple[str, pa.RecordBatch, Offsets]] = field(default_factory=list)
    _rejects: list[Reject] = field(default_factory=list)
    _chunk: Chunk = field(init=False)
    _ends: Offsets = field(init=False)
    _starts: Offsets = field(init=False)
    _waiting: list[Reject] = field(init=False)

    @property
    def waits(self) -> bool:
        """Whether there is something whose age counts."""
        return bool(self.num_rows or self._rejects or self.positions)

    def begin(self, chunk: Chunk) -> None:
        """Turn to the next chunk."""
        self._chunk = chunk
        if chunk.batch.num_rows:
            self.again = chunk.again
        self._waiting = sorted(chunk.rejects, key=lambda reject: reject.position)
        self._ends = row_ends(chunk)
        first = self.before.get(chunk.partition, 0)
        if chunk.ends is None and len(self._ends):
            first = int(self._ends[0]) - 1
        self._starts = np.concatenate(([first], self._ends[:-1])).astype(np.int64)

    def add(self, taken: int, room: int) -> int:
        """Take at most `room` rows of the chunk, from row `taken` on; return how many."""
        self.fresh = self.fresh or not self.waits
        batch = self._chunk.batch.slice(taken, room)
        stop = taken + batch.num_rows
        self._parts.append((self._chunk.partition, batch, self._starts[taken:stop]))
        self.state = self._chunk.state
        self.num_rows += batch.num_rows
        inner = self._chunk.inner
        self._reach(
            int(self._ends[stop - 1]), inner=0 if inner is None else int(inner[stop - 1]), beyond=False
        )
        return int(batch.num_rows)

    def finish(self) -> None:
        """Take what lies behind the last row of the chunk."""
        self.state = self._chunk.state
        # A position of 0 that a stream tells of is kept too: it says where reading began.
        if self._waiting or self.before.get(self._chunk.partition) != self._chunk.next:
            self.fresh = self.fresh or not self.waits
            # The start of the next row is where the last row ended, whether or not a chunk ended in between.
            row_end = self.before.get(self._chunk.partition, 0)
            inner = positions_after(self._chunk).get(inner_name(self._chunk.partition), 0)
            self._reach(self._chunk.next, inner=inner, beyond=True)
            self.before[self._chunk.partition] = row_end

    def close(self) -> Cut:
        """Return what was taken, and begin anew."""
        batches: list[pa.RecordBatch] = []
        places: list[Place] = []
        for partition, parts in _runs(self._parts):
            batches.append(_concat([batch for batch, _ in parts]))
            starts = [start for _, start in parts]
            places.append(Place(partition, starts[0] if len(starts) == 1 else np.concatenate(starts)))
        made = Cut(
            tuple(batches), self.positions, tuple(self._rejects), tuple(places), self.state, self.again
        )
        self.before |= self.positions
        self.positions, self._parts, self._rejects, self.num_rows = {}, [], [], 0
        return made

    def _reach(self, position: int, *, inner: int, beyond: bool) -> None:
        """Move the partition on to `position`, with the rejects before it (or all that are left).

        `inner` rows of the message at `position` have been given.
        """
        reached = [r for r in self._waiting if beyond or r.position < position]
        self._rejects += reached
        del self._waiting[: len(reached)]
        self.positions[self._chunk.partition] = position
        self.before[self._chunk.partition] = position
        name = inner_name(self._chunk.partition)
        if self._chunk.inner is not None or self.before.get(name):
            self.positions[name] = self.before[name] = inner


def _runs(
    parts: list[tuple[str, pa.RecordBatch, Offsets]],
) -> Iterator[tuple[str, list[tuple[pa.RecordBatch, Offsets]]]]:
    """Group neighbours of the same partition and schema."""
    run: list[tuple[pa.RecordBatch, Offsets]] = []
    for i, (partition, batch, starts) in enumerate(parts):
        run.append((batch, starts))
        last = i + 1 == len(parts)
        if last or parts[i + 1][0] != partition or not parts[i + 1][1].schema.equals(batch.schema):
            yield partition, run
            run = []


def _concat(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """Return the batches as one."""
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]

"""Columns of rows that are numbered as they come, found by key, and forgotten from the oldest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array
from onstream.streams.join.index import KeyIndex
from onstream.streams.join.keys import JoinKeys
from onstream.streams.join.times import FOREVER, NEVER

__all__ = ["Column", "Generation", "Rows", "Zone"]

Numbers = npt.NDArray[np.int64]

_ZONE_ROWS = 1 << 16
_LEAST_ROWS = 1 << 16
_MOST_ROWS = 1 << 24

# A generation is at least as large as what waits when it begins, divided by this: few have to be searched.
_PART = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its dtype, and what it holds before something is written."""

    dtype: type[np.generic]
    initial: float = 0


@dataclass(slots=True)
class Zone:
    """Some neighbouring rows of a generation, and the range of their times; of their floors, the latest."""

    first: int
    end: int
    earliest: int = FOREVER
    latest: int = NEVER
    floor: int = NEVER

    def done(self, offset: int, released: int) -> bool:
        """Return whether everything was released that was due `offset` after the rows, or at their floor."""
        return max(self.latest + offset, self.floor) <= released


@dataclass(slots=True)
class Generation:
    """Rows that are forgotten together.

    Attributes
    ----------
    first : int
        Number of its first row.
    size : int
    columns : dict of str to ndarray, shape (capacity,)
    """

    first: int
    columns: dict[str, Array]
    index: KeyIndex
    size: int = 0
    zones: list[Zone] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        """How many rows fit."""
        return len(self.columns["hash"])

    @property
    def latest(self) -> int:
        """The latest time of its rows."""
        return max((zone.latest for zone in self.zones), default=NEVER)


class Rows:
    """Rows with a key and a time each, numbered from 0 on as they come.

    Parameters
    ----------
    columns : mapping of str to Column
        Besides "hash", "check" and "time".

    Notes
    -----
    Rows lie in generations, each with an index of its own. A generation is dropped as a whole, so that nothing is
    ever moved or rebuilt; the newest are searched first. One key may have several rows: it is found under the one
    that was put into the index last.
    """

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = {
            "hash": Column(np.uint64),
            "check": Column(np.uint32),
            "time": Column(np.int64),
            **columns,
        }
        self.generations: list[Generation] = []
        self.end = 0

    @property
    def first(self) -> int:
        """Number of the oldest row that is remembered."""
        return self.generations[0].first if self.generations else self.end

    @property
    def size_bytes(self) -> int:
        """What columns and indexes take, as far as they are filled."""
        row_bytes = sum(np.dtype(column.dtype).itemsize for column in self._columns.values())
        return sum(g.size * row_bytes + g.index.size_bytes for g in self.generations)

    def append(self, keys: JoinKeys, times: Numbers, **values: Array) -> Numbers:
        """Add rows and return their numbers; `find` does not see them before `put`."""
        count = len(times)
        numbers = np.arange(self.end, self.end + count, dtype=np.int64)
        written: dict[str, Array] = {"hash": keys.hashes, "check": keys.checks, "time": times, **values}
        done = 0
        while done < count:
            generation = self._open()
            room = min(count - done, generation.capacity - generation.size)
            part = slice(generation.size, generation.size + room)
            for name, column in self._columns.items():
                if name in written:
                    generation.columns[name][part] = written[name][done : done + room]
                elif column.initial:
                    generation.columns[name][part] = column.initial
            floor = int(values["floor"][done : done + room].max()) if "floor" in self._columns else NEVER
            _widen(generation, times[done : done + room], floor)
            generation.size += room
            self.end += room
            done += room
        return numbers

    def put(self, numbers: Numbers) -> None:
        """Let rows of distinct keys be found under their keys, instead of older ones."""
        for generation, rows, _ in self.split(numbers):
            generation.index.put(rows)

    def find(self, keys: JoinKeys) -> Numbers:
        """Return the number of the row that each key has; -1 where there is none."""
        found = np.full(len(keys.hashes), -1, np.int64)
        wanted = np.arange(len(found))
        for generation in reversed(self.generations):
            if not len(wanted):
                break
            rows = generation.index.find(keys if len(wanted) == len(found) else keys.take(wanted))
            there = rows >= 0
            found[wanted[there]] = rows[there] + generation.first
            wanted = wanted[~there]
        return found

    def split(self, numbers: Numbers) -> Iterator[tuple[Generation, Numbers, slice | Numbers]]:
        """Yield, for each generation that holds some of these rows, their places in it, and in `numbers`."""
        for generation in self.generations:
            if not len(numbers):
                return
            low, high = generation.first, generation.first + generation.size
            if low <= numbers[0] and len(self.generations) == 1:
                yield generation, numbers - low, slice(None)
                return
            inside = np.flatnonzero((numbers >= low) & (numbers < high))
            if len(inside):
                yield generation, numbers[inside] - low, inside

    def take(self, name: str, numbers: Numbers) -> Array:
        """Return a column's values of some rows."""
        taken = np.empty(len(numbers), self._columns[name].dtype)
        for generation, rows, at in self.split(numbers):
            taken[at] = generation.columns[name][rows]
        return taken

    def forget(self, time: int) -> None:
        """Drop the oldest generations, as long as all times of a full one are at or before `time`."""
        while self.generations:
            oldest = self.generations[0]
            if oldest.latest > time or oldest.size < oldest.capacity:
                return
            del self.generations[0]

    def _open(self) -> Generation:
        """Return the generation that takes the next row."""
        if self.generations and self.generations[-1].size < self.generations[-1].capacity:
            return self.generations[-1]
        wanted = (self.end - self.first) // _PART
        capacity = min(max(_LEAST_ROWS, 1 << wanted.bit_length()), _MOST_ROWS)
        # Memory that is only asked for takes no room until it is written.
        columns = {name: np.zeros(capacity, column.dtype) for name, column in self._columns.items()}
        index = KeyIndex(columns["hash"], columns["check"])
        self.generations.append(Generation(self.end, columns, index))
        return self.generations[-1]


def _widen(generation: Generation, times: Numbers, floor: int) -> None:
    """Take the times and the latest floor of new rows into the zones."""
    at, done = generation.size, 0
    while done < len(times):
        if not generation.zones or generation.zones[-1].end - generation.zones[-1].first == _ZONE_ROWS:
            generation.zones.append(Zone(at, at))
        zone = generation.zones[-1]
        room = min(len(times) - done, _ZONE_ROWS - (zone.end - zone.first))
        part = times[done : done + room]
        zone.earliest = min(zone.earliest, int(part.min()))
        zone.latest = max(zone.latest, int(part.max()))
        zone.floor = max(zone.floor, floor)
        zone.end += room
        at += room
        done += room

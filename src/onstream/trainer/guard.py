"""The guard: stop learning when the stream is suddenly another than it was."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np

from onstream.contracts import Array, Batch, Label, Layout, State
from onstream.evaluate import Bound, resolve_bounds
from onstream.trainer.settings import Settings

__all__ = ["Guard"]

# Rows of the recent window are kept in at most about this many lumps, so that tiny batches do not fill checkpoints.
_LUMPS = 64
# The long run forgets: a row counts half after this many windows.
_HALF_LIFE_WINDOWS = 100


class Guard:
    """Tell before each batch whether the recent rows are still such as those before them.

    Parameters
    ----------
    text : str
        Bounds, as in "0.5 <= label_rate <= 2, unseen <= 0.3"; see the notes.
    labels : sequence of Label
    rows : int
        How many of the newest rows are recent.
    ids : bool
        Whether the job has embedding tables.

    Raises
    ------
    JobError
        If the text is not written as bounds, or bounds something else than the notes say.

    Notes
    -----
    ``label_rate`` is the mean of a binary label over the recent rows, the batch at hand included, divided by its
    mean over all rows before them, of which each counts half as much after 100 times `rows` more. Rows without
    the label do not count. It is watched for every binary label, ``click/label_rate`` for that one.

    ``unseen`` is by how many rows the tables grew over the recent rows, the batch at hand not included, divided
    by the number of ids read. An id that waits for admission counts as a row; a row that expired and was
    reclaimed meanwhile counts against. Bounds on it are absolute.

    Nothing is judged before `rows` rows are recent and `rows` rows lie before them, and again so after `reset`.
    """

    def __init__(self, text: str, labels: Sequence[Label], rows: int, *, ids: bool) -> None:
        self._labels = [label.name for label in labels if label.task == "binary"]
        names = {f"{name}/label_rate": [name] for name in self._labels}
        if self._labels:
            names = {"label_rate": self._labels, **names}
        if ids:
            names["unseen"] = [""]
        self._bounds = resolve_bounds(text, names, "guard")
        self._rows = rows
        self.reset()

    @staticmethod
    def of(settings: Settings, layout: Layout) -> Guard | None:
        """Return the guard that settings declare for a job's labels and tables, None if they declare none."""
        if settings.guard is None:
            return None
        return Guard(settings.guard, layout.labels, settings.guard_rows, ids=bool(layout.tables))

    def reset(self) -> None:
        """Forget all rows: those to come are what is usual."""
        self._rates = {name: _Recent(self._rows) for name in self._labels}
        self._unseen = _Recent(self._rows)

    def refusal(self, batch: Batch) -> str | None:
        """Return why a batch must not be learned from, None if it may. Nothing is changed."""
        for bound, labels in self._bounds:
            for label in labels:
                refusal = self._check_rate(bound, label, batch) if label else self._check_unseen(bound)
                if refusal is not None:
                    return refusal
        return None

    def update(self, batch: Batch, new_ids: int) -> None:
        """Take in a batch that was learned from, and by how many rows the tables grew."""
        for name, rates in self._rates.items():
            rates.add(*_labelled(batch.labels[name]))
        occurrences = sum(int(np.count_nonzero(keys)) for keys in batch.keys.values())
        self._unseen.add(batch.num_rows, new_ids, occurrences)

    def values(self) -> dict[str, float]:
        """Return what is watched, as far as there are rows enough to judge."""
        watched = {f"{name}/label_rate": rates.ratio() for name, rates in self._rates.items()}
        watched["unseen"] = _divide(*self._unseen.recent()[1:]) if self._unseen.judged() else None
        return {name: value for name, value in watched.items() if value is not None}

    def state(self) -> State:
        """Return what is remembered of the rows."""
        arrays = {f"label/{name}": rates.to_array() for name, rates in self._rates.items()}
        return State({**arrays, "unseen": self._unseen.to_array()}, {"rows": self._rows})

    def load(self, state: State) -> None:
        """Go on from `state`; a label that is not in it, and windows of another length, begin anew."""
        if state.facts["rows"] != self._rows:
            return
        for name, rates in self._rates.items():
            if f"label/{name}" in state.arrays:
                rates.load(state.arrays[f"label/{name}"])
        self._unseen.load(state.arrays["unseen"])

    def _check_rate(self, bound: Bound, label: str, batch: Batch) -> str | None:
        rates, added = self._rates[label], _labelled(batch.labels[label])
        ratio = rates.ratio(*added)
        if ratio is None or bound.holds(ratio):
            return None
        rows, amount, weight = rates.recent(*added)
        return (
            f"label_rate of {label!r} is {ratio:.4g}, the guard asks {bound}: its mean is {amount / weight:.4g} "
            f"over the last {rows:,.0f} rows, {rates.long_run():.4g} before"
        )

    def _check_unseen(self, bound: Bound) -> str | None:
        rows, new, ids = self._unseen.recent()
        share = _divide(new, ids)
        if not self._unseen.judged() or share is None or bound.holds(share):
            return None
        return (
            f"unseen is {share:.4g}, the guard asks {bound}: {new:,.0f} rows are new of {ids:,.0f} ids "
            f"in the last {rows:,.0f} rows"
        )


class _Recent:
    """Sums over the newest rows, and over those before them.

    Notes
    -----
    Rows leave the window by lumps, so that it holds at least `rows` and at most one lump or batch more.
    """

    def __init__(self, rows: int) -> None:
        self._size = rows
        # (rows, amount, weight) of each lump, oldest first.
        self._lumps: deque[tuple[float, float, float]] = deque()
        self._long = (0.0, 0.0, 0.0)

    def add(self, rows: float, amount: float, weight: float) -> None:
        if self._lumps and self._lumps[-1][0] + rows <= self._size / _LUMPS:
            last = self._lumps.pop()
            self._lumps.append((last[0] + rows, last[1] + amount, last[2] + weight))
        elif rows:
            self._lumps.append((rows, amount, weight))
        total = sum(lump[0] for lump in self._lumps)
        while self._lumps and total - self._lumps[0][0] >= self._size:
            old = self._lumps.popleft()
            total -= old[0]
            kept = 0.5 ** (old[0] / (_HALF_LIFE_WINDOWS * self._size))
            self._long = (
                self._long[0] * kept + old[0],
                self._long[1] * kept + old[1],
                self._long[2] * kept + old[2],
            )

    def recent(self, rows: float = 0, amount: float = 0, weight: float = 0) -> tuple[float, float, float]:
        """Return the sums of the window as they would be with these rows added."""
        total = rows + sum(lump[0] for lump in self._lumps)
        sums = [
            total,
            amount + sum(lump[1] for lump in self._lumps),
            weight + sum(lump[2] for lump in self._lumps),
        ]
        for lump in self._lumps:
            if sums[0] - lump[0] < self._size:
                break
            sums = [whole - part for whole, part in zip(sums, lump, strict=True)]
        return sums[0], sums[1], sums[2]

    def judged(self, rows: float = 0) -> bool:
        """Return whether there are rows enough, in the window and before it."""
        return self.recent(rows)[0] >= self._size and self._long[0] >= self._size

    def long_run(self) -> float:
        """Return the mean before the window."""
        return _divide(self._long[1], self._long[2]) or 0.0

    def ratio(self, rows: float = 0, amount: float = 0, weight: float = 0) -> float | None:
        """Return the mean of the window by the mean before it, None where it cannot be judged."""
        mean = _divide(*self.recent(rows, amount, weight)[1:])
        if not self.judged(rows) or mean is None:
            return None
        usual = self.long_run()
        # A rate that was 0 and is no more has jumped, however little it is.
        return mean / usual if usual else (math.inf if mean else None)

    def to_array(self) -> Array:
        return np.array([self._long, *self._lumps], np.float64)

    def load(self, array: Array) -> None:
        first, *lumps = [(float(a), float(b), float(c)) for a, b, c in array]
        self._long, self._lumps = first, deque(lumps)


def _labelled(labels: Array) -> tuple[float, float, float]:
    """Return (rows, sum, rows) of the rows that have the label."""
    there = np.count_nonzero(~np.isnan(labels))
    return float(there), float(np.nansum(labels, dtype=np.float64)), float(there)


def _divide(amount: float, weight: float) -> float | None:
    return amount / weight if weight else None

"""Predictions that wait for their outcome, where feedback comes late."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array, Emission, Keys, Phase, Rows, State

__all__ = ["Pending", "Scored"]

Mask = npt.NDArray[np.bool_]


class Scored(NamedTuple):
    """Predictions whose outcome is known, side by side."""

    prediction: Rows
    label: Rows
    weight: Rows | None
    groups: dict[str, Keys]


class Pending:
    """Keep the prediction of each impression, made when it came, until its outcome is final.

    Parameters
    ----------
    window_s : float
        Until how long after its impression feedback counts, lateness included.
    asked : bool
        Whether impressions are asked for when they come; then only these count. Without it, the prediction that
        counts is that of an impression's first row.
    closes : bool
        Whether no feedback within the window, of which no row tells, is an outcome: a negative.
    groups : tuple of str
    share : float
        Of impressions whose negatives the stream keeps, chosen by key. Only these count, whatever their outcome.
    capacity : int
        The most predictions that wait.

    Notes
    -----
    Of an impression one prediction counts, once: what is emitted again is not scored again, and an early negative is
    no outcome. Where more impressions wait than there is room for, half of them are forgotten, chosen by key, and
    from then on so are half of those to come; all that count are of the share that is kept, outcomes known at once
    among them, so that metrics stay those of all impressions.
    """

    def __init__(
        self,
        window_s: float,
        *,
        asked: bool,
        closes: bool,
        groups: tuple[str, ...] = (),
        share: float = 1.0,
        capacity: int = 1 << 16,
    ) -> None:
        assert capacity >= 2
        self._window_s = window_s
        self._asked = asked
        self._closes = closes
        self._groups = groups
        self._capacity = capacity
        self._clock = -np.inf
        # Impressions with a key below this are kept.
        self._limit = int(share * 2.0**64)
        self._forget()

    def __len__(self) -> int:
        """Return how many predictions wait."""
        return len(self._slots)

    def update(
        self,
        prediction: Rows,
        label: Rows,
        weight: Rows | None,
        groups: dict[str, Keys],
        emission: Emission,
    ) -> Scored:
        """Take in rows as they were emitted and predicted; return what can be scored now, in order of its outcome."""
        phase = emission.phase
        kept = emission.keys <= np.uint64(self._limit - 1)
        self._add(
            kept & (phase == (Phase.ASKED if self._asked else Phase.EARLY)),
            prediction,
            weight,
            groups,
            emission,
        )
        told = kept & ((phase == Phase.FINAL) | (phase == Phase.CORRECTION))
        at_once = told & (phase == Phase.FINAL) if not self._asked else np.zeros(len(phase), bool)
        waited = np.flatnonzero(told & ~at_once)
        slots = np.fromiter(
            (self._slots.pop(key, -1) for key in emission.keys[waited].tolist()), np.int64, len(waited)
        )
        waited, slots = waited[slots >= 0], slots[slots >= 0]
        own = Scored(
            prediction[at_once],
            label[at_once],
            None if weight is None else weight[at_once],
            {name: keys[at_once] for name, keys in groups.items()},
        )
        parts = [own, self._take(slots, label[waited])]
        present = phase != Phase.ABSENT
        if present.any():
            self._clock = max(self._clock, float((emission.time + emission.elapsed)[present].max()))
        if self._closes:
            parts.append(self._close(self._window_s))
        else:
            # Of these a row should have told: it was rejected, or the stream has lost it.
            self._close(2 * self._window_s)
        return _joined(parts)

    def state(self) -> State:
        """Return everything that decides what will be scored."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self._slots))
        arrays: dict[str, Array] = {
            "keys": np.fromiter(self._slots.keys(), np.uint64, len(self._slots)),
            "time": self._time[slots],
            "weight": self._weight[slots],
            **{f"group/{name}": keys[slots] for name, keys in self._keys.items()},
        }
        if self._prediction is not None:
            arrays["prediction"] = self._prediction[slots]
        return State(
            arrays, {"clock": float(self._clock), "limit": str(self._limit), "weighted": self._weighted}
        )

    def load(self, state: State) -> None:
        """Go on from `state`; with other groups than before, nothing waits."""
        self._forget()
        self._clock = float(state.facts["clock"])
        self._limit = min(self._limit, int(state.facts["limit"]))
        self._weighted = bool(state.facts["weighted"])
        arrays = state.arrays
        groups = {name.removeprefix("group/") for name in arrays if name.startswith("group/")}
        if groups != set(self._groups) or "prediction" not in arrays:
            return
        keys = arrays["keys"]
        if len(keys) > self._capacity:
            return
        self._place(
            keys,
            arrays["time"],
            arrays["prediction"],
            arrays["weight"],
            {name: arrays[f"group/{name}"] for name in self._groups},
        )

    def _forget(self) -> None:
        self._slots: dict[int, int] = {}
        self._free = np.arange(self._capacity)[::-1].tolist()
        self._time = np.full(self._capacity, np.inf)
        self._weight = np.ones(self._capacity, np.float32)
        self._impressions: Keys = np.zeros(self._capacity, np.uint64)
        self._keys = {name: np.zeros(self._capacity, np.uint64) for name in self._groups}
        self._prediction: Rows | None = None
        self._weighted = False

    def _add(
        self, rows: Mask, prediction: Rows, weight: Rows | None, groups: dict[str, Keys], emission: Emission
    ) -> None:
        """Keep the predictions of some rows; of an impression that waits already, the first stays."""
        at = np.flatnonzero(rows)
        if not len(at):
            return
        keys, first = np.unique(emission.keys[at], return_index=True)
        new = np.fromiter((key not in self._slots for key in keys.tolist()), bool, len(keys))
        at = at[first[new]]
        while len(at) > len(self._free):
            self._halve()
            at = at[emission.keys[at] <= np.uint64(self._limit - 1)]
        self._weighted |= weight is not None
        self._place(
            emission.keys[at],
            emission.time[at],
            prediction[at],
            np.ones(len(at), np.float32) if weight is None else weight[at],
            {name: column[at] for name, column in groups.items()},
        )

    def _place(
        self,
        keys: Keys,
        time: npt.NDArray[np.float64],
        prediction: Rows,
        weight: Rows,
        groups: dict[str, Keys],
    ) -> None:
        if self._prediction is None:
            self._prediction = np.zeros((self._capacity, *prediction.shape[1:]), np.float32)
        slots = [self._free.pop() for _ in range(len(keys))]
        self._slots.update(zip(keys.tolist(), slots, strict=True))
        self._impressions[slots], self._prediction[slots] = keys, prediction
        self._time[slots], self._weight[slots] = time, weight
        for name in self._groups:
            self._keys[name][slots] = groups[name]

    def _halve(self) -> None:
        """Keep half as large a share of impressions."""
        self._limit >>= 1
        gone = [key for key in self._slots if key >= self._limit]
        self._release([self._slots.pop(key) for key in gone])

    def _close(self, age_s: float) -> Scored:
        """Take the impressions of this age, as negatives."""
        slots = np.flatnonzero(self._time + age_s <= self._clock)
        # Where they stand depends on what came before; their order must not.
        slots = slots[np.lexsort((self._impressions[slots], self._time[slots]))]
        for key in self._impressions[slots].tolist():
            del self._slots[key]
        return self._take(slots, np.zeros(len(slots), np.float32))

    def _take(self, slots: npt.NDArray[np.int64], label: Rows) -> Scored:
        """Return what waits in slots, with its outcome, and free them."""
        prediction = np.zeros(0, np.float32) if self._prediction is None else self._prediction[slots]
        weight = self._weight[slots] if self._weighted else None
        groups = {name: keys[slots] for name, keys in self._keys.items()}
        self._release(slots.tolist())
        return Scored(prediction, label, weight, groups)

    def _release(self, slots: list[int]) -> None:
        self._time[slots] = np.inf
        self._free += slots


def _joined(parts: list[Scored]) -> Scored:
    """Return all parts as one."""
    some = [part for part in parts if len(part.label)]
    if len(some) <= 1:
        return some[0] if some else parts[0]
    weighted = any(part.weight is not None for part in some)
    weights = [np.ones(len(p.label), np.float32) if p.weight is None else p.weight for p in some]
    return Scored(
        np.concatenate([part.prediction for part in some]),
        np.concatenate([part.label for part in some]),
        np.concatenate(weights) if weighted else None,
        {name: np.concatenate([part.groups[name] for part in some]) for name in some[0].groups},
    )

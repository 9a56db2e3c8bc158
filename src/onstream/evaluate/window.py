"""The last examples of a label: one ring buffer that all windowed metrics share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array, Keys, Rows, State

__all__ = ["Examples", "Window"]


class Examples(NamedTuple):
    """Examples side by side, oldest first. The first three are what a metric's `update` takes."""

    prediction: Rows
    label: Rows
    weight: Rows | None
    groups: dict[str, Keys]


class Window:
    """Keep the last `size` examples.

    Parameters
    ----------
    size : int
        In examples; at least 1.
    groups : tuple of str
        Columns of group keys to keep beside each example.

    Notes
    -----
    `append` costs two slice copies a column, however large the window is. What `examples` returns depends
    on the last `size` examples alone: not on how they were batched, nor on when it was asked before.

    Examples
    --------
    >>> import numpy as np
    >>> window = Window(2)
    >>> window.append(np.float32([0.1, 0.2, 0.3]), np.float32([0, 0, 1]))
    >>> window.examples().prediction
    array([0.2, 0.3], dtype=float32)
    """

    def __init__(self, size: int, groups: tuple[str, ...] = ()) -> None:
        if size < 1:
            raise ValueError(f"a window holds at least 1 example, got {size!r}")
        self.size = size
        self.groups = groups
        # Invariant: until the window is full, `_end` is `_length` and the oldest example is at 0; from then
        # on the oldest is at `_end`.
        self._end = 0
        self._length = 0
        self._prediction: Rows = np.zeros(size, np.float32)
        self._label: Rows = np.zeros(size, np.float32)
        self._weight: Rows | None = None
        self._keys: dict[str, Keys] = {group: np.zeros(size, np.uint64) for group in groups}

    def __len__(self) -> int:
        """Return how many examples are kept."""
        return self._length

    def append(
        self,
        prediction: Rows,
        label: Rows,
        weight: Rows | None = None,
        groups: Mapping[str, Keys] | None = None,
    ) -> None:
        """Add examples, dropping the oldest; no weights are weights of 1."""
        columns: dict[str, Array] = {"prediction": prediction, "label": label}
        if weight is not None and self._weight is None:
            self._weight = np.ones(self.size, np.float32)
        if self._weight is not None:
            columns["weight"] = np.ones(len(label), np.float32) if weight is None else weight
        for group in self.groups:
            columns[f"group/{group}"] = (groups or {})[group]
        rings = self._rings()
        for name, column in columns.items():
            _write(rings[name], self._end, column[-self.size :])
        num_rows = min(len(label), self.size)
        self._end = (self._end + num_rows) % self.size
        self._length = min(self._length + num_rows, self.size)

    def examples(self) -> Examples:
        """Return copies of the examples kept, oldest first."""
        columns = {name: self._unroll(ring) for name, ring in self._rings().items()}
        return Examples(
            columns["prediction"],
            columns["label"],
            columns.get("weight"),
            {group: columns[f"group/{group}"] for group in self.groups},
        )

    def state(self) -> State:
        """Return the examples kept, labels as bytes where they are small whole numbers."""
        arrays: dict[str, Array] = {name: self._unroll(ring) for name, ring in self._rings().items()}
        arrays["label"] = _compact(arrays["label"])
        return State(arrays=arrays, facts={"groups": list(self.groups)})

    def load(self, state: State) -> None:
        """Go on from `state`.

        Notes
        -----
        A state of a larger window leaves its newest examples. A state with other groups leaves an empty
        window, since the groups of past examples are not known.
        """
        self._end = 0
        self._length = 0
        self._weight = None
        if set(state.facts["groups"]) != set(self.groups):
            return
        arrays = state.arrays
        self.append(
            arrays["prediction"],
            arrays["label"].astype(np.float32),
            arrays.get("weight"),
            {group: arrays[f"group/{group}"] for group in self.groups},
        )

    def _rings(self) -> dict[str, Array]:
        rings: dict[str, Array] = {"prediction": self._prediction, "label": self._label}
        if self._weight is not None:
            rings["weight"] = self._weight
        for group, keys in self._keys.items():
            rings[f"group/{group}"] = keys
        return rings

    def _unroll(self, ring: Array) -> npt.NDArray[Any]:
        if self._length < self.size:
            return ring[: self._length].copy()
        return np.concatenate((ring[self._end :], ring[: self._end]))


def _write(ring: Array, end: int, column: Array) -> None:
    """Write a column no longer than the ring from `end` on, around the corner if need be."""
    before = min(len(column), len(ring) - end)
    ring[end : end + before] = column[:before]
    ring[: len(column) - before] = column[before:]


def _compact(label: Array) -> Array:
    """Return labels as uint8 where that loses nothing."""
    if len(label) and (label.min() < 0 or label.max() > 255):
        return label
    small = label.astype(np.uint8)
    return small if np.array_equal(small, label) else label

"""The plain values that everything is said in: arrays, positions, predictions, states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Keys", "Positions", "Predictions", "Rows", "State"]

Array: TypeAlias = npt.NDArray[Any]
Keys: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.float32]

Positions: TypeAlias = dict[str, int]
"""Where to read on: partition name to the position of its next unread row. A missing partition starts at 0."""

Predictions: TypeAlias = dict[str, Rows]
"""Label name to float32: probabilities (rows,), values (rows,), or class probabilities (rows, classes)."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class State:
    """What a part must remember to go on exactly: named arrays and JSON facts."""

    arrays: dict[str, Array] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

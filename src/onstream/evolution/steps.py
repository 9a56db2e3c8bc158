"""Steps: how an estimated gradient moves a vector of parameters uphill."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from onstream.contracts import Array, Rows

__all__ = ["STEPS", "AdamSteps", "SgdSteps", "Steps"]


class Steps(Protocol):
    """What remembers past gradients."""

    def __init__(self, num_parameters: int, *, momentum: float) -> None: ...

    def step(self, gradient: Rows, lr: float) -> Rows:
        """Return what to add to the parameters for a larger reward, float32 (n,)."""

    def arrays(self) -> dict[str, Array]:
        """Return what is remembered, by name."""

    def load(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` returned."""


class SgdSteps:
    """Momentum: ``v = momentum * v + (1 - momentum) * gradient``; the step is ``lr * v``."""

    def __init__(self, num_parameters: int, *, momentum: float) -> None:
        self._momentum = np.float32(momentum)
        self._velocity = np.zeros(num_parameters, np.float32)

    def step(self, gradient: Rows, lr: float) -> Rows:
        """Return what to add to the parameters."""
        self._velocity = self._momentum * self._velocity + (1 - self._momentum) * gradient
        moved: Rows = np.float32(lr) * self._velocity
        return moved

    def arrays(self) -> dict[str, Array]:
        """Return the velocity."""
        return {"velocity": self._velocity}

    def load(self, arrays: dict[str, Array]) -> None:
        """Go on from `arrays`."""
        self._velocity = arrays["velocity"]


class AdamSteps:
    """Adam (Kingma and Ba 2015, algorithm 1), with `momentum` as beta 1, beta 2 of 0.999 and epsilon of 1e-8."""

    _BETA2 = np.float32(0.999)
    _EPSILON = np.float32(1e-8)

    def __init__(self, num_parameters: int, *, momentum: float) -> None:
        self._beta1 = np.float32(momentum)
        self._first = np.zeros(num_parameters, np.float32)
        self._second = np.zeros(num_parameters, np.float32)
        self._count = 0

    def step(self, gradient: Rows, lr: float) -> Rows:
        """Return what to add to the parameters."""
        self._count += 1
        self._first = self._beta1 * self._first + (1 - self._beta1) * gradient
        self._second = self._BETA2 * self._second + (1 - self._BETA2) * gradient * gradient
        first = self._first / np.float32(1 - float(self._beta1) ** self._count)
        second = self._second / np.float32(1 - float(self._BETA2) ** self._count)
        moved: Rows = np.float32(lr) * first / (np.sqrt(second) + self._EPSILON)
        return moved

    def arrays(self) -> dict[str, Array]:
        """Return both moments and the number of steps."""
        return {"first": self._first, "second": self._second, "count": np.array([self._count], np.int64)}

    def load(self, arrays: dict[str, Array]) -> None:
        """Go on from `arrays`."""
        self._first, self._second = arrays["first"], arrays["second"]
        self._count = int(arrays["count"][0])


STEPS: dict[str, type[AdamSteps] | type[SgdSteps]] = {"adam": AdamSteps, "sgd": SgdSteps}
"""By name."""

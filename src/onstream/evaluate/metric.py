"""What a metric is: something that is updated with examples and has a value at any time."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from onstream.contracts import Rows, State

__all__ = ["Metric", "Ratio"]

Float64s: TypeAlias = npt.NDArray[np.float64]


class Metric(Protocol):
    """A number that sums up how good predictions are. Undefined values are NaN."""

    def update(self, prediction: Rows, label: Rows, weight: Rows | None = None) -> None:
        """Take in examples: three arrays of float32, shape (n,), all finite. No weights are weights of 1."""

    def value(self) -> float:
        """Return the metric over all examples so far; NaN where it is undefined."""

    def merge(self, other: Any) -> None:
        """Take in what another metric of the same class has seen."""

    def state(self) -> State:
        """Return everything that decides future values."""

    def load(self, state: State) -> None:
        """Go on from `state`, bit for bit."""


class Ratio:
    """A metric that is a function of a few weighted sums: the frame of most files in this room.

    A subclass gives `terms`, what each example adds, and `value`. ``sums[0]`` is the total weight;
    ``sums[1:]`` are the weighted sums of the terms, in float64.
    """

    num_terms: ClassVar[int] = 1

    def __init__(self) -> None:
        self.sums: Float64s = np.zeros(1 + self.num_terms)

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return what each example adds to ``sums[1:]``, float64 (n,) each, before weighting."""
        raise NotImplementedError

    def value(self) -> float:
        """Return the metric over all examples so far; NaN where it is undefined."""
        return divide(self.sums[1], self.sums[0])

    def update(self, prediction: Rows, label: Rows, weight: Rows | None = None) -> None:
        """Take in examples: three arrays of float32, shape (n,), all finite. No weights are weights of 1."""
        terms = self.terms(prediction, label)
        if weight is None:
            self.sums[0] += len(label)
            for i, term in enumerate(terms, start=1):
                self.sums[i] += term.sum()
        else:
            weight64 = weight.astype(np.float64)
            self.sums[0] += weight64.sum()
            for i, term in enumerate(terms, start=1):
                self.sums[i] += (term * weight64).sum()

    def merge(self, other: Self) -> None:
        """Take in what another metric of the same class has seen."""
        self.sums += other.sums

    def state(self) -> State:
        """Return everything that decides future values."""
        return State(arrays={"sums": self.sums.copy()})

    def load(self, state: State) -> None:
        """Go on from `state`, bit for bit."""
        self.sums = np.array(state.arrays["sums"], np.float64)


def divide(numerator: float, denominator: float) -> float:
    """Return the quotient, or NaN where the denominator is 0."""
    return float(numerator) / float(denominator) if denominator != 0 else float("nan")

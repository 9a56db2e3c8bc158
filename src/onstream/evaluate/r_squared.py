"""R-squared: the share of the label's variance that predictions explain."""

from __future__ import annotations

from typing import Self

import numpy as np

from onstream.contracts import Rows, State
from onstream.evaluate.metric import divide

__all__ = ["RSquared"]


class RSquared:
    r"""Coefficient of determination: 1 is best, 0 is as good as always predicting the mean label.

    .. math:: 1 - \sum_i w_i (p_i - y_i)^2 / \sum_i w_i (y_i - \bar y)^2

    Undefined while all labels are alike.

    Notes
    -----
    The spread around the mean is updated batch by batch with Chan's rule, which does not lose digits when
    labels are large and close together, as the difference of two sums of squares does.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque (1983), Algorithms for computing the sample variance, The
    American Statistician 37(3), equation 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> metric = RSquared()
    >>> metric.update(np.float32([1, 2, 4]), np.float32([1, 2, 3]))
    >>> metric.value()
    0.5
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean = 0.0
        self._spread = 0.0
        self._squared_error = 0.0

    def update(self, prediction: Rows, label: Rows, weight: Rows | None = None) -> None:
        """Take in examples: three arrays of float32, shape (n,), all finite. No weights are weights of 1."""
        label64 = label.astype(np.float64)
        weight64 = np.ones(len(label)) if weight is None else weight.astype(np.float64)
        total = float(weight64.sum())
        if total == 0:
            return
        # Measured from one of the labels, the mean of labels that are all alike is exactly that label.
        origin = float(label64[0])
        mean = origin + float(((label64 - origin) * weight64).sum()) / total
        spread = float((np.square(label64 - mean) * weight64).sum())
        self._add(total, mean, spread)
        self._squared_error += float((np.square(prediction - label64) * weight64).sum())

    def value(self) -> float:
        """Return R-squared so far; NaN while all labels are alike."""
        return 1 - divide(self._squared_error, self._spread)

    def merge(self, other: Self) -> None:
        """Take in what another metric of the same class has seen."""
        if other._weight:
            self._add(other._weight, other._mean, other._spread)
            self._squared_error += other._squared_error

    def state(self) -> State:
        """Return everything that decides future values."""
        return State(arrays={"sums": np.array([self._weight, self._mean, self._spread, self._squared_error])})

    def load(self, state: State) -> None:
        """Go on from `state`, bit for bit."""
        self._weight, self._mean, self._spread, self._squared_error = map(float, state.arrays["sums"])

    def _add(self, weight: float, mean: float, spread: float) -> None:
        together = self._weight + weight
        step = mean - self._mean
        self._mean += step * (weight / together)
        self._spread += spread + step * step * (self._weight * weight / together)
        self._weight = together

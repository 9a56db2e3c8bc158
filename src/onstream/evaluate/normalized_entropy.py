"""Normalized entropy: log loss freed from the base rate."""

from __future__ import annotations

from math import log, nan
from typing import ClassVar

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.log_loss import binary_loss
from onstream.evaluate.metric import Float64s, Ratio, divide

__all__ = ["NormalizedEntropy"]


class NormalizedEntropy(Ratio):
    r"""Log loss divided by the entropy of the base rate: 1 is as good as always predicting the base rate.

    Smaller is better. Unlike log loss it can be compared between labels and days whose base rates differ.

    .. math:: \frac{\text{log loss}}{-\left(b \ln b + (1 - b) \ln(1 - b)\right)},
        \quad b = \sum_i w_i y_i / \sum_i w_i

    Undefined while all labels are alike.

    References
    ----------
    X. He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, ADKDD, equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> metric = NormalizedEntropy()
    >>> metric.update(np.float32([0.25, 0.25, 0.25, 0.25]), np.float32([0, 1, 0, 0]))
    >>> round(metric.value(), 6)
    1.0
    """

    num_terms: ClassVar[int] = 2

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the log loss and the label of each example."""
        return binary_loss(prediction, label), label.astype(np.float64)

    def value(self) -> float:
        """Return the normalized entropy so far; NaN while all labels are alike."""
        weight, loss, positive = self.sums.tolist()
        base = divide(positive, weight)
        if not 0 < base < 1:
            return nan
        return divide(loss / weight, -(base * log(base) + (1 - base) * log(1 - base)))

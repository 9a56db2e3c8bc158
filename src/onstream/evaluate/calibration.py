"""Calibration: are predictions as large as labels on the whole?"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.metric import Float64s, Ratio, divide

__all__ = ["Calibration"]


class Calibration(Ratio):
    r"""Sum of predictions divided by sum of labels: 1 is best, above 1 the model predicts too much.

    .. math:: \sum_i w_i p_i / \sum_i w_i y_i

    Undefined while the labels sum to 0.

    References
    ----------
    X. He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, ADKDD, section 2
    ("the ratio of the average estimated CTR and empirical CTR").

    Examples
    --------
    >>> import numpy as np
    >>> metric = Calibration()
    >>> metric.update(np.float32([0.5, 0.75]), np.float32([0, 1]))
    >>> metric.value()
    1.25
    """

    num_terms: ClassVar[int] = 2

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the prediction and the label of each example."""
        return prediction.astype(np.float64), label.astype(np.float64)

    def value(self) -> float:
        """Return the ratio so far; NaN while the labels sum to 0."""
        return divide(self.sums[1], self.sums[2])

"""Root mean squared error of real labels."""

from __future__ import annotations

from math import sqrt

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.metric import Float64s, Ratio

__all__ = ["RMSE"]


class RMSE(Ratio):
    r"""Root mean squared error, in the unit of the label.

    .. math:: \sqrt{\sum_i w_i (p_i - y_i)^2 / \sum_i w_i}

    References
    ----------
    R. J. Hyndman, A. B. Koehler (2006), Another look at measures of forecast accuracy, International
    Journal of Forecasting 22(4), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> metric = RMSE()
    >>> metric.update(np.float32([1, 5]), np.float32([4, 1]))
    >>> round(metric.value(), 4)
    3.5355
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the squared error of each example."""
        return (np.square(prediction.astype(np.float64) - label),)

    def value(self) -> float:
        """Return the root of the mean so far; NaN before the first example."""
        return sqrt(super().value())

"""Mean absolute error of real labels."""

from __future__ import annotations

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.metric import Float64s, Ratio

__all__ = ["MAE"]


class MAE(Ratio):
    r"""Mean absolute error, in the unit of the label.

    .. math:: \sum_i w_i |p_i - y_i| / \sum_i w_i

    References
    ----------
    R. J. Hyndman, A. B. Koehler (2006), Another look at measures of forecast accuracy, International
    Journal of Forecasting 22(4), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> metric = MAE()
    >>> metric.update(np.float32([1, 5]), np.float32([4, 1]))
    >>> metric.value()
    3.5
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the absolute error of each example."""
        return (np.abs(prediction.astype(np.float64) - label),)

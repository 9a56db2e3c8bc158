"""Accuracy of binary labels."""

from __future__ import annotations

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.metric import Float64s, Ratio

__all__ = ["Accuracy"]


class Accuracy(Ratio):
    r"""Share of examples that lie on the right side of one half.

    .. math:: \sum_i w_i [(p_i > 0.5) = (y_i > 0.5)] / \sum_i w_i

    References
    ----------
    C. D. Manning, P. Raghavan, H. Schütze (2008), Introduction to information retrieval, section 8.3.

    Examples
    --------
    >>> import numpy as np
    >>> metric = Accuracy()
    >>> metric.update(np.float32([0.2, 0.9, 0.6, 0.7]), np.float32([0, 1, 0, 1]))
    >>> metric.value()
    0.75
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return 1 for each example that is right, 0 for each that is wrong."""
        return (((prediction > 0.5) == (label > 0.5)).astype(np.float64),)

"""Log loss of binary labels."""

from __future__ import annotations

import numpy as np

from onstream.contracts import Rows
from onstream.evaluate.metric import Float64s, Ratio

__all__ = ["LogLoss"]

# Keeps a sure and wrong prediction from costing infinitely much; TensorFlow and Keras clip at the same place.
_CLIP = 1e-7


class LogLoss(Ratio):
    r"""Mean negative log likelihood of binary labels, in nats.

    .. math:: -\sum_i w_i \left(y_i \ln p_i + (1 - y_i) \ln(1 - p_i)\right) / \sum_i w_i

    Probabilities are clipped to :math:`[10^{-7}, 1 - 10^{-7}]` in float64.

    References
    ----------
    I. J. Good (1952), Rational decisions, Journal of the Royal Statistical Society B 14(1), section 8.

    Examples
    --------
    >>> import numpy as np
    >>> metric = LogLoss()
    >>> metric.update(np.float32([0.5, 0.75]), np.float32([0, 1]))
    >>> round(metric.value(), 4)
    0.4904
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the loss of each example."""
        return (binary_loss(prediction, label),)


def binary_loss(prediction: Rows, label: Rows) -> Float64s:
    """Return the log loss of each example, float64 (n,)."""
    chance = np.clip(prediction.astype(np.float64), _CLIP, 1 - _CLIP)
    # One logarithm an example: that of what was given to its own label, which is 0 or 1.
    return -np.log(np.where(label == 1, chance, 1 - chance))

"""Log loss and accuracy of class labels."""

from __future__ import annotations

import numpy as np

from onstream.contracts import Rows
from onstream.errors import ShapeError
from onstream.evaluate.log_loss import binary_loss
from onstream.evaluate.metric import Float64s, Ratio

__all__ = ["ClassAccuracy", "ClassLogLoss", "narrow"]


def narrow(prediction: Rows, label: Rows) -> tuple[Rows, Rows]:
    """Reduce class probabilities to the two numbers a row that metrics need.

    A window of examples is then as small for a thousand classes as for two.

    Parameters
    ----------
    prediction : ndarray of float32, shape (n, classes)
    label : ndarray of float32, shape (n,)
        Whole numbers, from 0 to ``classes - 1``.

    Returns
    -------
    chance : ndarray of float32, shape (n,)
        The probability given to the true class.
    hit : ndarray of float32, shape (n,)
        1 where the true class got the highest probability (the first of several highest counts), else 0.

    Raises
    ------
    ShapeError
        If a label is not one of the classes.

    Examples
    --------
    >>> import numpy as np
    >>> narrow(np.float32([[0.25, 0.75], [0.5, 0.5]]), np.float32([1, 1]))
    (array([0.75, 0.5 ], dtype=float32), array([1., 0.], dtype=float32))
    """
    true = label.astype(np.intp)
    classes = prediction.shape[1]
    wrong = (true != label) | (true < 0) | (true >= classes)
    if wrong.any():
        raise ShapeError(
            f"class labels must be whole numbers from 0 to {classes - 1}, got {float(label[wrong][0])!r}; "
            f"declare the label with more classes or clean the source"
        )
    chance = prediction[np.arange(len(true)), true]
    # An array without rows has no highest class to ask for when it also has no columns.
    best = prediction.argmax(axis=1) if len(true) else true
    return chance, (best == true).astype(np.float32)


class ClassLogLoss(Ratio):
    r"""Mean negative log of the probability given to the true class, in nats.

    .. math:: -\sum_i w_i \ln p_{i, y_i} / \sum_i w_i

    It takes what `narrow` returns. Probabilities are clipped as in `LogLoss`.

    References
    ----------
    C. M. Bishop (2006), Pattern recognition and machine learning, equation 4.108.

    Examples
    --------
    >>> import numpy as np
    >>> metric = ClassLogLoss()
    >>> metric.update(*narrow(np.float32([[0.25, 0.75], [0.5, 0.5]]), np.float32([1, 1])))
    >>> round(metric.value(), 4)
    0.4904
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the loss of each example from the chance of its true class; hits are not looked at."""
        return (binary_loss(prediction, np.ones_like(label)),)


class ClassAccuracy(Ratio):
    r"""Share of examples whose true class got the highest probability.

    .. math:: \sum_i w_i [\arg\max_c p_{i, c} = y_i] / \sum_i w_i

    It takes what `narrow` returns.

    References
    ----------
    C. D. Manning, P. Raghavan, H. Schütze (2008), Introduction to information retrieval, section 8.3.

    Examples
    --------
    >>> import numpy as np
    >>> metric = ClassAccuracy()
    >>> metric.update(*narrow(np.float32([[0.25, 0.75], [0.5, 0.5]]), np.float32([1, 1])))
    >>> metric.value()
    0.5
    """

    def terms(self, prediction: Rows, label: Rows) -> tuple[Float64s, ...]:
        """Return the hits; chances are not looked at."""
        return (label.astype(np.float64),)

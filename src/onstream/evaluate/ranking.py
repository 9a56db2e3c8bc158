"""Exact AUC, and AUC within groups, of examples that are all in memory."""

from __future__ import annotations

from math import nan

import numpy as np
import numpy.typing as npt

from onstream.contracts import Keys, Rows
from onstream.evaluate.metric import Float64s

__all__ = ["exact_auc", "grouped_auc"]


def exact_auc(prediction: Rows, label: Rows, weight: Rows | None = None) -> float:
    r"""Return the area under the ROC curve: the chance that a positive is ranked above a negative.

    .. math:: \sum_{i \in P} \sum_{j \in N} w_i w_j \left([p_i > p_j] + \tfrac12 [p_i = p_j]\right)
        / \left(\sum_{i \in P} w_i \sum_{j \in N} w_j\right)

    Parameters
    ----------
    prediction, label, weight : ndarray of float32, shape (n,)
        A label above one half is a positive.

    Returns
    -------
    float
        NaN where one of the two classes is missing.

    Notes
    -----
    O(n log n) time.

    References
    ----------
    J. A. Hanley, B. J. McNeil (1982), The meaning and use of the area under a receiver operating
    characteristic (ROC) curve, Radiology 143(1).

    Examples
    --------
    >>> import numpy as np
    >>> exact_auc(np.float32([0.1, 0.4, 0.4, 0.8]), np.float32([0, 0, 1, 1]))
    0.875
    """
    return grouped_auc(prediction, label, np.zeros(len(label), np.uint64), weight)


def grouped_auc(prediction: Rows, label: Rows, groups: Keys, weight: Rows | None = None) -> float:
    r"""Return the mean of the AUC within each group, weighted by the groups' weights (GAUC).

    It tells how well a user's own candidates are ranked, which the AUC over all users hides behind the
    easy part: telling active users from others.

    .. math:: \sum_g W_g \, \text{AUC}_g / \sum_g W_g, \quad W_g = \sum_{i \in g} w_i

    over the groups that have both classes; without weights, :math:`W_g` is the number of examples.

    Parameters
    ----------
    prediction, label, weight : ndarray of float32, shape (n,)
        A label above one half is a positive.
    groups : ndarray of uint64, shape (n,)

    Returns
    -------
    float
        NaN where no group has both classes.

    Notes
    -----
    O(n log n) time, whatever the number of groups.

    References
    ----------
    H. Zhu et al. (2017), Optimized cost per click in Taobao display advertising, KDD, section on metrics;
    G. Zhou et al. (2018), Deep interest network for click-through rate prediction, KDD, section on metrics.

    Examples
    --------
    >>> import numpy as np
    >>> prediction = np.float32([0.1, 0.2, 0.8, 0.9, 0.9])
    >>> label = np.float32([0, 1, 1, 0, 1])
    >>> grouped_auc(prediction, label, np.uint64([7, 7, 8, 8, 9]))
    0.5
    """
    if len(label) == 0:
        return nan
    order = np.lexsort((prediction, groups))
    prediction, groups, positive = prediction[order], groups[order], label[order] > 0.5
    weights = np.ones(len(order)) if weight is None else weight[order].astype(np.float64)

    new_group = _changes(groups)
    ties = np.flatnonzero(new_group | _changes(prediction))
    positives = np.add.reduceat(np.where(positive, weights, 0.0), ties)
    negatives = np.add.reduceat(np.where(positive, 0.0, weights), ties)

    first = np.flatnonzero(new_group[ties])
    group = np.cumsum(new_group[ties]) - 1
    below = np.cumsum(negatives) - negatives
    below -= below[first][group]
    won = np.add.reduceat(positives * (below + 0.5 * negatives), first)
    positives_of, negatives_of = np.add.reduceat(positives, first), np.add.reduceat(negatives, first)

    both = (positives_of > 0) & (negatives_of > 0)
    if not both.any():
        return nan
    share: Float64s = (positives_of + negatives_of)[both]
    auc: Float64s = won[both] / (positives_of[both] * negatives_of[both])
    return float((share * auc).sum() / share.sum())


def _changes(values: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Return where a sorted array differs from its value before; the first always does."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes

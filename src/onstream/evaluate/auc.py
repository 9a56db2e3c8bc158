"""AUC over a whole stream, in bounded memory."""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from onstream.contracts import Rows, State
from onstream.errors import CheckpointError
from onstream.evaluate.metric import Float64s, divide

__all__ = ["AUC"]

# A probability up to one half is binned by its float32 bits, one above it by those of its complement: bins
# are as wide as the logit is steep, fine at both ends, and need no logarithm. HdrHistogram bins so.
_BITS = 10  # bins per halving of the probability: 2**10, so neighbours differ by at most 0.1 %
_SHIFT = 23 - _BITS  # float32 has 23 bits of mantissa
_FIRST = int(np.float32(2.0**-24).view(np.int32)) >> _SHIFT  # the complement of the largest float below 1
_HALF = (int(np.float32(0.5).view(np.int32)) >> _SHIFT) - _FIRST + 1
_BINS = 2 * _HALF + 1


class AUC:
    r"""Area under the ROC curve over all examples so far, from histograms of positives and negatives.

    .. math:: \sum_b P_b \left(\sum_{a < b} N_a + \tfrac12 N_b\right) / (P N)

    with :math:`P_b` and :math:`N_b` the weight of positives and negatives in bin b. A label above one half is
    a positive. Undefined while one of the two classes is missing.

    Notes
    -----
    Memory is constant: 47 107 bins, about 740 KiB. Bins cut every halving of p, or of 1 - p above one half,
    into 1024 equal parts, down to 2**-24. The value is exact where predictions that differ fall into bins
    that differ; in general it is off by at most `error_bound`, since only the order within a bin is unknown
    and counts as a draw. Without weights, neither the order of examples nor how they are batched changes a
    bit of the value.

    References
    ----------
    T. Fawcett (2006), An introduction to ROC analysis, Pattern Recognition Letters 27(8), section 7.
    G. Tene, HdrHistogram, https://hdrhistogram.org (bins).

    Examples
    --------
    >>> import numpy as np
    >>> metric = AUC()
    >>> metric.update(np.float32([0.1, 0.4]), np.float32([0, 0]))
    >>> metric.update(np.float32([0.4, 0.8]), np.float32([1, 1]))
    >>> metric.value(), metric.error_bound()
    (0.875, 0.125)
    """

    def __init__(self) -> None:
        # Row 0 holds the weight of negatives by bin, row 1 that of positives.
        self._mass: Float64s = np.zeros((2, _BINS))

    def update(self, prediction: Rows, label: Rows, weight: Rows | None = None) -> None:
        """Take in examples: three arrays of float32, shape (n,), all finite. No weights are weights of 1."""
        place = _bins(prediction) + np.where(label > 0.5, _BINS, 0)
        np.add.at(self._mass.reshape(-1), place, 1.0 if weight is None else weight.astype(np.float64))

    def value(self) -> float:
        """Return the AUC so far; NaN while one of the two classes is missing."""
        negatives, positives = self._mass
        below = np.cumsum(negatives) - 0.5 * negatives
        return divide((positives * below).sum(), positives.sum() * negatives.sum())

    def error_bound(self) -> float:
        """Return how far `value` can be from the exact AUC: half the share of pairs that share a bin."""
        negatives, positives = self._mass
        return divide(0.5 * (positives * negatives).sum(), positives.sum() * negatives.sum())

    def merge(self, other: Self) -> None:
        """Take in what another AUC has seen."""
        self._mass += other._mass

    def state(self) -> State:
        """Return everything that decides future values: the bins that are not empty."""
        flat = self._mass.reshape(-1)
        bins = np.flatnonzero(flat)
        return State(arrays={"bins": bins.astype(np.int32), "mass": flat[bins]}, facts={"num_bins": _BINS})

    def load(self, state: State) -> None:
        """Go on from `state`, bit for bit.

        Raises
        ------
        CheckpointError
            If the state was written with other bins.
        """
        if state.facts["num_bins"] != _BINS:
            raise CheckpointError(
                f"an AUC of {state.facts['num_bins']} bins cannot go on with {_BINS}; "
                f"start without the evaluation state"
            )
        self._mass = np.zeros((2, _BINS))
        self._mass.reshape(-1)[state.arrays["bins"]] = state.arrays["mass"]


def _bins(prediction: Rows) -> npt.NDArray[np.int32]:
    """Return the bin of each probability; what lies outside [0, 1] goes to the outermost bins."""
    # Above one half the complement is exact in float32 (Sterbenz), so no order is lost by it.
    nearer = np.minimum(prediction, 1 - prediction, dtype=np.float32)
    low: npt.NDArray[np.int32] = np.maximum((nearer.view(np.int32) >> _SHIFT) - (_FIRST - 1), 0)
    return np.where(prediction > 0.5, _BINS - 1 - low, low)

"""Quantiles of delays, from counts in buckets that grow by a constant factor."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array

__all__ = ["Delays"]

_GROWTH = 1.05
_LEAST_S = 1e-3
_BUCKETS = 600


class Delays:
    """Counts of delays; quantiles are right to 2.5 % of their value.

    Parameters
    ----------
    counts : ndarray of int64, shape (600,), optional
        To go on from.

    Notes
    -----
    Bucket `i` counts delays around ``0.001 s * 1.05**i``; shorter and longer ones, beyond 150 years, are in the
    first and last. Counts of several joins can be added.

    References
    ----------
    C. Masson, J. E. Rim, H. K. Lee (2019), DDSketch: a fast and fully-mergeable quantile sketch with
    relative-error guarantees, VLDB, section 2.

    Examples
    --------
    >>> delays = Delays()
    >>> delays.add(np.array([1.0, 2.0, 60.0]))
    >>> round(delays.quantile(0.5), 1)
    2.0
    """

    def __init__(self, counts: Array | None = None) -> None:
        self.counts = np.zeros(_BUCKETS, np.int64) if counts is None else np.array(counts, np.int64)

    def add(self, delays_s: npt.NDArray[np.floating]) -> None:
        """Count delays, in seconds."""
        if len(delays_s):
            steps = np.log(np.maximum(delays_s, _LEAST_S) / _LEAST_S) / math.log(_GROWTH)
            at = np.minimum(np.round(steps), _BUCKETS - 1).astype(np.int64)
            self.counts += np.bincount(at, minlength=_BUCKETS)

    def quantile(self, share: float) -> float:
        """Return the delay, in seconds, that this share of all does not exceed; NaN before any."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        at = int(np.searchsorted(np.cumsum(self.counts), max(1.0, share * total)))
        return _LEAST_S * _GROWTH**at

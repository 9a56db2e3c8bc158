"""Shaping: what rewards become before they weigh perturbations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array

__all__ = ["SHAPINGS", "centered_ranks"]


def centered_ranks(rewards: npt.ArrayLike) -> Array:
    """Return ranks of rewards, from -0.5 for the least to 0.5 for the best; float64 (n,).

    Parameters
    ----------
    rewards : array of float, shape (n,)
        May hold infinity, not NaN.

    Notes
    -----
    Of `n` rewards that with `b` smaller ones and `e` others equal to it becomes ``(b + e / 2) / (n - 1) - 0.5``.
    Equal rewards have the mean of their ranks, so that a pair which earned the same moves nothing. One reward
    alone becomes 0.

    References
    ----------
    Salimans et al. 2017, section 2: fitness shaping by a rank transformation.

    Examples
    --------
    >>> centered_ranks([30.0, 10.0, 500.0, 30.0]).round(3).tolist()
    [0.0, -0.5, 0.5, 0.0]
    """
    values = np.asarray(rewards, np.float64)
    if len(values) < 2:
        return np.zeros(len(values))
    ordered = np.sort(values)
    smaller = np.searchsorted(ordered, values, side="left")
    not_larger = np.searchsorted(ordered, values, side="right")
    return (smaller + (not_larger - smaller - 1) / 2) / (len(values) - 1) - 0.5


def _standardized(rewards: npt.ArrayLike) -> Array:
    values = np.asarray(rewards, np.float64)
    spread = float(values.std()) if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _raw(rewards: npt.ArrayLike) -> Array:
    return np.asarray(rewards, np.float64)


SHAPINGS: dict[str, Callable[[npt.ArrayLike], Array]] = {
    "ranks": centered_ranks,
    "standard": _standardized,
    "raw": _raw,
}
"""By name: centered ranks; mean 0 and standard deviation 1; rewards as they are."""

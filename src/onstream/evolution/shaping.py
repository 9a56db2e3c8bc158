"""Shaping: what rewards become before they weigh perturbations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array

__all__ = ["SHAPINGS", "centered_ranks", "utilities"]


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
    return _ranks(values) / (len(values) - 1) - 0.5


def utilities(rewards: npt.ArrayLike) -> Array:
    """Return what rewards are worth to a natural evolution strategy: the better half alone counts, the best most.

    Parameters
    ----------
    rewards : array of float, shape (n,)
        May hold infinity, not NaN.

    Notes
    -----
    The `k`-th best of `n` becomes ``max(0, log(n / 2 + 1) - log(k))``; these are divided by their mean, less 1, so
    that all together are 0. Equal rewards have the mean of their places.

    References
    ----------
    Wierstra et al. 2014, Natural Evolution Strategies, section 3.1. There they are divided by their sum, which is
    the same for a gradient that is a sum over the population in place of a mean.

    Examples
    --------
    >>> utilities([30.0, 10.0, 500.0, 20.0]).round(3).tolist()
    [0.078, -1.0, 1.922, -1.0]
    """
    values = np.asarray(rewards, np.float64)
    if not len(values):
        return values
    places = len(values) - _ranks(values)
    worth = np.maximum(0, np.log(len(values) / 2 + 1) - np.log(places))
    found: Array = worth / worth.mean() - 1
    return found


def _ranks(values: Array) -> Array:
    """Return ranks from 0; equal values have the mean of theirs."""
    ordered = np.sort(values)
    smaller = np.searchsorted(ordered, values, side="left")
    not_larger = np.searchsorted(ordered, values, side="right")
    found: Array = smaller + (not_larger - smaller - 1) / 2
    return found


def _standardized(rewards: npt.ArrayLike) -> Array:
    values = np.asarray(rewards, np.float64)
    spread = float(values.std()) if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _raw(rewards: npt.ArrayLike) -> Array:
    return np.asarray(rewards, np.float64)


SHAPINGS: dict[str, Callable[[npt.ArrayLike], Array]] = {
    "ranks": centered_ranks,
    "nes": utilities,
    "standard": _standardized,
    "raw": _raw,
}
"""By name: centered ranks, utilities, mean 0 and standard deviation 1, rewards as they are."""

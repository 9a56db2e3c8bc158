"""What another policy would have earned, from a log of choices that tells with what probability each was made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from onstream.choice.policies import Floats
from onstream.errors import JobError, ShapeError

__all__ = ["Estimate", "Logged", "doubly_robust", "ips", "mean_reward", "snips"]


@dataclass(frozen=True, slots=True)
class Logged:
    """Choices that were made, one a request.

    Attributes
    ----------
    rewards : ndarray of float64, shape (requests,)
        Of what was chosen.
    propensity : ndarray of float64, shape (requests,)
        With what probability it was chosen.
    target : ndarray of float64, shape (requests,)
        With what probability the other policy would have chosen the same.
    """

    rewards: Floats
    propensity: Floats
    target: Floats

    def __post_init__(self) -> None:
        """Check shapes and probabilities."""
        shape = np.shape(self.rewards)
        if len(shape) != 1 or np.shape(self.propensity) != shape or np.shape(self.target) != shape:
            raise ShapeError("rewards, propensity and target must be one a request each")
        if not shape[0]:
            raise JobError("there is no logged choice to estimate from")
        if not (np.all(self.propensity > 0) and np.all(self.propensity <= 1)):
            raise JobError("a choice was made with its propensity, which is above 0 and at most 1")

    @property
    def weights(self) -> Floats:
        """How much more often the other policy would have made each choice."""
        return self.target / self.propensity


@dataclass(frozen=True, slots=True)
class Estimate:
    """An expected reward a request, and how sure it is.

    Attributes
    ----------
    method : str
    value : float
    low, high : float
        Of the confidence interval, which is normal: it holds for many requests, and weights that are not extreme.
    requests : int
    effective : float
        How many requests chosen by the other policy itself would tell as much, about.
    """

    method: str
    value: float
    low: float
    high: float
    requests: int
    effective: float


def mean_reward(rewards: npt.NDArray[np.float64], *, confidence: float = 0.95) -> Estimate:
    """Return what was earned by the policy that was followed."""
    return _estimate("logged", np.asarray(rewards, np.float64), float(len(rewards)), confidence)


def ips(logged: Logged, *, confidence: float = 0.95, largest: float | None = None) -> Estimate:
    r"""Estimate by inverse propensity scores: :math:`\frac1n \sum_i w_i r_i` with :math:`w_i = \pi(a_i) / p_i`.

    Unbiased, if whatever the other policy may choose had a chance to be chosen.

    Parameters
    ----------
    logged : Logged
    confidence : float
        Of the interval.
    largest : float, optional
        Weights are cut off there, which lowers the variance, and biases the estimate downwards (of rewards that are
        not negative).

    References
    ----------
    Horvitz, Thompson (1952), A generalization of sampling without replacement from a finite universe, section 3.
    """
    weights = _cut(logged.weights, largest)
    return _estimate("ips", weights * logged.rewards, _effective(weights), confidence)


def snips(logged: Logged, *, confidence: float = 0.95, largest: float | None = None) -> Estimate:
    r"""Estimate by self-normalised scores: :math:`\sum_i w_i r_i / \sum_i w_i`.

    Biased by about one in the number of requests, and of lower variance; stays within the range of the rewards. The
    interval is that of the delta method for a ratio of means.

    Parameters
    ----------
    logged : Logged
    confidence : float
        Of the interval.
    largest : float, optional
        Weights are cut off there.

    References
    ----------
    Swaminathan, Joachims (2015), The Self-Normalized Estimator for Counterfactual Learning, NIPS, equation 6.
    """
    weights = _cut(logged.weights, largest)
    total = float(weights.sum())
    if total == 0:
        raise JobError(
            "the other policy would have made none of the logged choices: nothing can be told of it"
        )
    value = float((weights * logged.rewards).sum()) / total
    error = math.sqrt(float((weights**2 * (logged.rewards - value) ** 2).sum())) / total
    reach = _reach(confidence) * error
    return Estimate("snips", value, value - reach, value + reach, len(weights), _effective(weights))


def doubly_robust(
    logged: Logged,
    modelled: npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    *,
    confidence: float = 0.95,
    largest: float | None = None,
) -> Estimate:
    r"""Estimate by a model of rewards, corrected: :math:`\frac1n \sum_i \hat v_i + w_i (r_i - \hat r_i)`.

    Unbiased if the propensities are right, whatever the model, and of lower variance the better the model is. It must
    not have been fitted to the very rewards that are weighted.

    Parameters
    ----------
    logged : Logged
    modelled : ndarray of float64, shape (requests,)
        :math:`\hat r_i`, the reward that the model expects of what was chosen.
    expected : ndarray of float64, shape (requests,)
        :math:`\hat v_i = \sum_a \pi(a) \hat r(a)`, what it expects of the other policy.
    confidence : float
        Of the interval.
    largest : float, optional
        Weights are cut off there.

    References
    ----------
    Dudík, Langford, Li (2011), Doubly Robust Policy Evaluation and Learning, ICML, equation 1.
    """
    if np.shape(modelled) != np.shape(logged.rewards) or np.shape(expected) != np.shape(logged.rewards):
        raise ShapeError("modelled and expected must be one a request each")
    weights = _cut(logged.weights, largest)
    return _estimate("dr", expected + weights * (logged.rewards - modelled), _effective(weights), confidence)


def _estimate(method: str, values: Floats, effective: float, confidence: float) -> Estimate:
    """Return the mean of independent values."""
    n = len(values)
    mean = float(values.mean())
    # One value tells nothing of how far others are.
    reach = _reach(confidence) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Estimate(method, mean, mean - reach, mean + reach, n, effective)


def _effective(weights: Floats) -> float:
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def _cut(weights: Floats, largest: float | None) -> Floats:
    if largest is None:
        return weights
    if not largest > 0:
        raise JobError(f"largest must be above 0, got {largest!r}")
    return np.minimum(weights, largest)


def _reach(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise JobError(f"confidence must be between 0 and 1, got {confidence!r}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)

"""How one of a request's candidates is chosen: by what probability each, given what was predicted of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onstream.errors import JobError

__all__ = ["Candidates", "EpsilonGreedy", "Policy", "Softmax", "Thompson", "policy_of"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is known of one request's candidates.

    Attributes
    ----------
    scores : ndarray of float64, shape (candidates,)
        Predicted reward of each.
    counts : ndarray of float64, shape (candidates,), optional
        From how many examples that is known.
    heads : ndarray of float64, shape (heads, candidates), optional
        What each head of a bootstrapped network predicts.
    """

    scores: Floats
    counts: Floats | None = None
    heads: Floats | None = None


class Policy(Protocol):
    """A frozen description of how to choose."""

    def propensities(self, candidates: Candidates, draw: np.random.Generator) -> Floats:
        """Return the probability of each candidate, (candidates,); they sum to 1.

        `draw` may be drawn from; the probabilities returned are then exact given what was drawn.
        """

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values, with its name under "kind"."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best candidate, but any with a share `epsilon` of the requests. Candidates that are equally good share.

    Parameters
    ----------
    epsilon : float
        From 0, always the best, to 1, always any.

    References
    ----------
    Sutton, Barto (2018), Reinforcement Learning: An Introduction, section 2.2.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        """Check the share."""
        _check(0 <= self.epsilon <= 1, self, "epsilon must be from 0 to 1", self.epsilon)

    def propensities(self, candidates: Candidates, draw: np.random.Generator) -> Floats:
        """Return the probability of each candidate."""
        return _mixed(_best(candidates.scores), self.epsilon)

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "epsilon", **asdict(self)}


@dataclass(frozen=True)
class Softmax:
    r"""A candidate with probability proportional to :math:`e^{s / \tau}` of its score s.

    Parameters
    ----------
    temperature : float
        :math:`\tau`, in the unit of the scores; the smaller, the greedier.

    References
    ----------
    Sutton, Barto (2018), Reinforcement Learning: An Introduction, section 2.8, equation 2.11.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        """Check the temperature."""
        good = self.temperature > 0 and math.isfinite(self.temperature)
        _check(good, self, "temperature must be a positive number", self.temperature)

    def propensities(self, candidates: Candidates, draw: np.random.Generator) -> Floats:
        """Return the probability of each candidate."""
        powers: Floats = np.exp((candidates.scores - candidates.scores.max()) / self.temperature)
        return powers / powers.sum()  # type: ignore[no-any-return]

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "softmax", **asdict(self)}


@dataclass(frozen=True)
class Thompson:
    """A candidate with the probability that it is the best, as far as is known.

    With `heads`, what is known are the heads of a bootstrapped network: a candidate's probability is the share of
    heads that find it best. Else it is the counts: rewards from 0 to 1 have a Beta posterior as of so many examples
    with the predicted mean; with `deviation`, a reward is normal around the prediction.

    Parameters
    ----------
    draws : int
        How many times rewards are drawn from the posterior. The probability of a candidate is the share of draws that
        it wins. That is what is then chosen by, so the propensity is exact, however few draws there are: more of them
        only come closer to the posterior.
    floor : float
        Share of the requests in which any candidate is chosen. Off-policy estimates need every candidate to have a
        chance.
    prior : float
        Examples of each outcome that the Beta posterior begins with.
    deviation : float, optional
        Of one reward around its mean, for rewards that are not from 0 to 1.

    References
    ----------
    Chapelle, Li (2011), An Empirical Evaluation of Thompson Sampling, NIPS, algorithms 1 and 2.
    Osband, Van Roy (2015), Bootstrapped Thompson Sampling and Deep Exploration, section 3.
    """

    draws: int = 1000
    floor: float = 0.01
    prior: float = 1.0
    deviation: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check(
            type(self.draws) is int and self.draws > 0,
            self,
            "draws must be a whole number above 0",
            self.draws,
        )
        _check(0 <= self.floor <= 1, self, "floor must be from 0 to 1", self.floor)
        _check(self.prior > 0, self, "prior must be above 0", self.prior)
        deviation = self.deviation
        _check(deviation is None or deviation > 0, self, "deviation must be above 0", deviation)

    def propensities(self, candidates: Candidates, draw: np.random.Generator) -> Floats:
        """Return the probability of each candidate."""
        if candidates.heads is not None:
            drawn = candidates.heads
        elif candidates.counts is None:
            raise JobError(
                "Thompson needs to know how sure predictions are: give counts, or heads of a network"
            )
        else:
            drawn = self._drawn(candidates.scores, candidates.counts, draw)
        best = drawn == drawn.max(axis=1, keepdims=True)
        return _mixed((best / best.sum(axis=1, keepdims=True)).mean(axis=0), self.floor)

    def _drawn(self, scores: Floats, counts: Floats, draw: np.random.Generator) -> Floats:
        size = (self.draws, len(scores))
        if self.deviation is not None:
            return draw.normal(scores, self.deviation / np.sqrt(counts + 1.0), size)
        low, high = scores.min(), scores.max()
        if not (low >= 0 and high <= 1):
            raise JobError(
                f"Thompson takes rewards from 0 to 1, got a prediction of {low if low < 0 else high!r}; give the "
                f"deviation of a reward, as in Thompson(deviation=2.0)"
            )
        return draw.beta(self.prior + counts * scores, self.prior + counts * (1.0 - scores), size)

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "thompson", **asdict(self)}


def policy_of(text: str) -> Policy:
    """Return the policy of a text: "greedy", "uniform", "epsilon=0.1", "softmax=0.5" or "thompson".

    Raises
    ------
    JobError
        If it says no policy.
    """
    name, equals, number = text.partition("=")
    try:
        if name == "epsilon" and equals:
            return EpsilonGreedy(float(number))
        if name == "softmax" and equals:
            return Softmax(float(number))
    except ValueError as error:
        raise JobError(f"policy {text!r}: {error}") from None
    plain: dict[str, Policy] = {
        "greedy": EpsilonGreedy(0.0),
        "uniform": EpsilonGreedy(1.0),
        "thompson": Thompson(),
    }
    if text not in plain:
        raise JobError(
            f"a policy is greedy, uniform, thompson, epsilon=SHARE or softmax=TEMPERATURE, got {text!r}"
        )
    return plain[text]


def _best(scores: Floats) -> Floats:
    """Return probabilities that are shared by those with the highest score."""
    best = (scores == scores.max()).astype(np.float64)
    return best / best.sum()  # type: ignore[no-any-return]


def _mixed(probabilities: Floats, share: float) -> Floats:
    """Return probabilities of which a share goes to all alike."""
    return (1.0 - share) * probabilities + share / len(probabilities)


def _check(good: bool, policy: object, expected: str, got: object) -> None:
    if not good:
        raise JobError(f"{type(policy).__name__}: {expected}, got {got!r}")

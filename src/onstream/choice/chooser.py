"""Choosing one of each request's candidates, so that the same request gets the same choice again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onstream.choice.policies import Candidates, Floats, Policy
from onstream.core import hash_value, salt
from onstream.errors import JobError, ShapeError

__all__ = ["Choices", "Chooser"]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen, request by request.

    Attributes
    ----------
    index : ndarray of int64, shape (requests,)
        The row that was chosen.
    propensity : ndarray of float64, shape (requests,)
        With what probability.
    propensities : ndarray of float64, shape (rows,)
        With what probability each row would have been.
    scores : ndarray of float64, shape (rows,)
        What it was chosen by.
    """

    index: npt.NDArray[np.int64]
    propensity: Floats
    propensities: Floats
    scores: Floats


@dataclass(frozen=True)
class Chooser:
    """Choose one candidate of each request.

    Parameters
    ----------
    policy : Policy
        `EpsilonGreedy`, `Softmax` or `Thompson`.
    label : str, optional
        Which label's prediction is the expected reward; needed if there are several.
    heads : sequence of str
        Labels that are the heads of a bootstrapped network, for `Thompson`; their mean is the score.
    seed : int

    Notes
    -----
    What is drawn follows from the seed, the request's key and the predictions alone: asking again gives the same
    choice, in any process. Requests of other keys draw independently.

    Examples
    --------
    >>> import numpy as np
    >>> from onstream.choice import Chooser, EpsilonGreedy
    >>> chooser = Chooser(EpsilonGreedy(0.3))
    >>> choices = chooser.choose(np.array([0.1, 0.5, 0.2, 0.9]), ["a", "a", "a", "b"])
    >>> choices.propensities.round(2).tolist()
    [0.1, 0.8, 0.1, 1.0]
    """

    policy: Policy
    label: str | None = None
    heads: Sequence[str] = ()
    seed: int = 0

    def choose(
        self,
        predictions: Mapping[str, npt.NDArray[Any]] | npt.NDArray[Any],
        keys: Sequence[Any],
        *,
        counts: npt.NDArray[Any] | None = None,
    ) -> Choices:
        """Choose a row of each request.

        Parameters
        ----------
        predictions : dict of str to ndarray, or ndarray, shape (rows,)
            As a model gives them: expected rewards, by label.
        keys : sequence of int or str, shape (rows,)
            The request of each row; rows of one request are neighbours.
        counts : ndarray, shape (rows,), optional
            From how many examples each row's prediction is known, such as `RowCounts` gives; for `Thompson`.

        Raises
        ------
        JobError
            If the policy cannot choose by that, or is wrong.
        ShapeError
            If there is not one of each for every row, or a request's rows are not together.
        """
        heads, scores = self._scores(predictions)
        known = None if counts is None else np.asarray(counts, np.float64)
        if not np.isfinite(scores).all():
            raise JobError("a prediction is not finite, so that nothing can be chosen by it")
        begins = _begins(keys, len(scores))
        if known is not None and known.shape != scores.shape:
            raise ShapeError(f"counts must be one a row, {scores.shape}, got {known.shape}")
        ends = [*begins, len(scores)][1:]
        index = np.empty(len(begins), np.int64)
        propensities = np.empty(len(scores))
        for at, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            own = slice(begin, end)
            candidates = Candidates(
                scores[own],
                None if known is None else known[own],
                None if heads is None else heads[:, own],
            )
            draw = np.random.default_rng((self.seed, hash_value(keys[begin], salt("onstream.choice"))))
            found = self.policy.propensities(candidates, draw)
            if not (found.min() >= 0 and abs(found.sum() - 1) < _ROUNDING):
                raise JobError(
                    f"{self.policy!r} gives probabilities that do not sum to 1: {found.tolist()!r:.200}"
                )
            propensities[own] = found
            # The last one takes what rounding leaves.
            index[at] = begin + min(
                int(np.searchsorted(np.cumsum(propensities[own]), draw.random(), side="right")),
                end - begin - 1,
            )
        return Choices(index, propensities[index], propensities, scores)

    def _scores(self, predictions: Any) -> tuple[Floats | None, Floats]:
        """Return what the heads predict, if there are any, and the scores."""
        if not isinstance(predictions, Mapping):
            return None, _rewards(predictions, "the predictions")
        names = self.heads or (self.label,)
        if names == (None,):
            if len(predictions) != 1:
                raise JobError(
                    f"label must be one of {sorted(predictions)}: which one is the expected reward?"
                )
            names = tuple(predictions)
        if missing := [name for name in names if name not in predictions]:
            raise JobError(f"there is no prediction of {missing[0]!r}, only of {sorted(predictions)}")
        found = np.stack([_rewards(predictions[name], f"predictions of {name!r}") for name in names if name])
        return (found, found.mean(axis=0)) if self.heads else (None, found[0])


def _rewards(values: Any, what: str) -> Floats:
    rewards = np.asarray(values, np.float64)
    if rewards.ndim != 1:
        raise ShapeError(f"{what} must be one expected reward a row, got the shape {rewards.shape}")
    return rewards


def _begins(keys: Sequence[Any], num_rows: int) -> list[int]:
    """Return where each request's rows begin."""
    if len(keys) != num_rows:
        raise ShapeError(f"keys must be one a row, {num_rows}, got {len(keys)}")
    begins = [at for at in range(num_rows) if at == 0 or keys[at] != keys[at - 1]]
    if len({keys[at] for at in begins}) < len(begins):
        raise ShapeError("the rows of one request must be neighbours")
    return begins

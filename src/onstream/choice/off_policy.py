"""Off-policy evaluation: what a model would earn by its choices, from a log of choices that others made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.choice.chooser import Chooser
from onstream.choice.estimates import Estimate, Logged, doubly_robust, ips, mean_reward, snips
from onstream.choice.policies import Floats
from onstream.choice.records import CANDIDATE, CHOSEN, KEY, PROPENSITY, read_choices
from onstream.contracts import Predictions
from onstream.errors import JobError
from onstream.streams import Log

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was earned, and what the model that is judged would have.

    Attributes
    ----------
    logged : Estimate
        The mean reward of the choices that were made.
    ips, snips, dr : Estimate
        Of the model that is judged.
    unrewarded : int
        Requests without a reward, which counted as `missing`.
    unsupported : float
        Share of its choices that had no chance to be logged: of these nothing is known, and unless rewards
        may be 0, the estimates are too low by it.
    """

    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate
    unrewarded: int
    unsupported: float


def compare(
    log: Log,
    predict: Callable[[pa.RecordBatch], Predictions],
    chooser: Chooser,
    *,
    counts: Callable[[pa.RecordBatch], Floats] | None = None,
    confidence: float = 0.95,
    largest: float | None = None,
    missing: float | None = 0.0,
) -> Comparison:
    """Estimate what a model and a policy would have earned on logged requests.

    Parameters
    ----------
    log : Log
        As `ChoiceLog` writes it, opened with ``follow=False``.
    predict : callable
        What the model predicts of rows; for the doubly robust estimate its scores are the model of rewards.
    chooser : Chooser
        The policy that would choose by these predictions.
    counts : callable, optional
        From how many examples each row's prediction is known, for `Thompson`.
    confidence : float
        Of the intervals.
    largest : float, optional
        Weights are cut off there.
    missing : float, optional
        The reward of a request that has none; None leaves such requests out.

    Raises
    ------
    JobError
        If the log holds no choices.
    """
    rewards: list[float] = []
    propensity: list[float] = []
    target: list[float] = []
    modelled: list[float] = []
    expected: list[float] = []
    unrewarded, unsupported = 0, 0.0
    for rows, found in read_choices(log):
        keys = rows.column(KEY).to_pylist()
        chosen = np.flatnonzero(rows.column(CHOSEN).to_numpy(zero_copy_only=False))
        odds = rows.column(PROPENSITY).to_numpy()
        choices = chooser.choose(predict(rows), keys, counts=None if counts is None else counts(rows))
        begins = np.flatnonzero(rows.column(CANDIDATE).to_numpy() == 0)
        if [keys[at] for at in chosen] != [keys[at] for at in begins]:
            raise JobError("the log is damaged: a request has not exactly one candidate that was chosen")
        values = np.add.reduceat(choices.propensities * choices.scores, begins)
        lost = np.add.reduceat(np.where(odds > 0, 0.0, choices.propensities), begins)
        for at, value, gone in zip(chosen.tolist(), values.tolist(), lost.tolist(), strict=True):
            unrewarded += found[at] is None
            reward = missing if found[at] is None else found[at]
            if reward is None:
                continue
            rewards.append(reward)
            propensity.append(odds[at])
            target.append(choices.propensities[at])
            modelled.append(choices.scores[at])
            expected.append(value)
            unsupported += gone
    if not rewards:
        raise JobError(f"{log.path} holds no choices{' with rewards' if unrewarded else ''} to estimate from")
    logged = Logged(np.array(rewards), np.array(propensity), np.array(target))
    options: dict[str, Any] = {"confidence": confidence, "largest": largest}
    return Comparison(
        mean_reward(logged.rewards, confidence=confidence),
        ips(logged, **options),
        snips(logged, **options),
        doubly_robust(logged, np.array(modelled), np.array(expected), **options),
        unrewarded,
        unsupported / len(rewards),
    )

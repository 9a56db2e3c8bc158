"""Losses of labels whose feedback comes late: what an emitted row teaches, by the policy that emitted it.

Logits are those of the network, of the emitted stream. With a share `kept` of the negatives, the odds there are
``1 / kept`` of those of the full stream, so a logit less ``-log(kept)`` is that of the full stream (He et al. 2014,
Practical lessons from predicting clicks on ads at Facebook, section 6.3); `onstream.learners.losses.activate` does
that, and the weights here use it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from onstream.contracts import Emission, Label, Phase
from onstream.errors import JobError
from onstream.feedback import (
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeCalibrated,
    FakeNegativeWeighted,
    Policy,
)

__all__ = ["LATE_LOSSES", "MOST_CHANCE", "Late", "LateLoss", "auxiliary_names", "late_policy", "shift"]

# Nothing is known of delays before the first: a twentieth of what is asked of is slow, and none is sure.
_FIRST_SHARE = math.log(0.05)
# After a run of corrections and no impressions a model is all but sure. Then negatives would have no weight, so that it
# would stay; and b / (1 - b) would be 1 or more, where one negative costs as much as it can. Chances above this are
# not to be expected.
MOST_CHANCE = 0.9
# At most e^8 feedbacks a window, so that exponentials stay finite.
_MOST_RATE = 8.0


class Late(NamedTuple):
    """One label of a batch, as tensors; every tensor has one entry a row.

    Attributes
    ----------
    logits : Tensor
        The network's, for the emitted stream.
    labels : Tensor
        0 or 1; any value where the label is absent.
    phase : Tensor of int8
    elapsed : Tensor
        In windows.
    auxiliary : dict of str to Tensor
        What a policy estimates beside, by name.
    """

    logits: Tensor
    labels: Tensor
    phase: Tensor
    elapsed: Tensor
    auxiliary: dict[str, Tensor]


LateLoss = Callable[[Late, Policy, float], Tensor]
"""(late, policy, kept) -> losses, one a row, before rows without label are taken out."""


def late_policy(label: Label) -> Policy | None:
    """Return the policy of a label that needs a loss of its own, None where a usual loss does.

    Raises
    ------
    JobError
        If the policy is for binary labels and this is none.
    """
    policy = label.policy
    if not isinstance(policy, Policy) or not policy.weighs:
        return None
    if label.task != "binary":
        raise JobError(
            f"label {label.name!r} is {label.task}: the policy {policy.kind!r} is for binary labels; use 'wait'"
        )
    return policy


def auxiliary_names(policy: Policy) -> tuple[str, ...]:
    """Return what a policy estimates beside the label."""
    if isinstance(policy, DelayedFeedback):
        return ("hazard",)
    if isinstance(policy, ElapsedTimeSampling):
        return ("delayed", "fake")
    return ()


def first_value(name: str) -> float:
    """Return what an estimate begins with: as many feedbacks a window as windows, or a small share, as its log."""
    return 0.0 if name == "hazard" else _FIRST_SHARE


def shift(label: Label) -> float:
    """Return what to add to a logit of the emitted stream to make it one of the full stream."""
    # The likelihood of a delay knows no odds; there kept negatives weigh as much as all did.
    weighed = isinstance(label.policy, DelayedFeedback)
    return 0.0 if weighed or label.kept >= 1 else math.log(label.kept)


def make_late(label: Label, emission: Emission, logits: Tensor, labels: Tensor) -> Late:
    """Return one label of a batch as tensors, without estimates."""
    assert isinstance(label.policy, Policy)
    return Late(
        logits,
        labels,
        torch.from_numpy(emission.phase),
        torch.from_numpy(emission.elapsed) / label.policy.window_s,
        {},
    )


def fake_negative_weighted(late: Late, policy: Policy, kept: float) -> Tensor:
    r"""Weigh positives by :math:`1 + f` and negatives by :math:`(1 - f)(1 + f)`; no gradient flows to the weights.

    In the weights, :math:`f` is at most 0.9.

    References
    ----------
    S. I. Ktena et al. (2019), see `onstream.feedback.FakeNegativeWeighted`.
    """
    chance = torch.sigmoid(late.logits.detach() + math.log(kept)).clamp(max=MOST_CHANCE)
    positive = (1 + chance) * F.softplus(-late.logits)
    negative = (1 - chance) * (1 + chance) * F.softplus(late.logits)
    return torch.where(late.labels > 0, positive, negative)


def fake_negative_calibrated(late: Late, policy: Policy, kept: float) -> Tensor:
    """Return the plain log loss of the emitted labels: what is predicted of them is corrected later.

    References
    ----------
    S. I. Ktena et al. (2019), see `onstream.feedback.FakeNegativeCalibrated`.
    """
    return F.binary_cross_entropy_with_logits(late.logits, late.labels, reduction="none")


def delayed_feedback(late: Late, policy: Policy, kept: float) -> Tensor:
    r"""Return the negative log likelihood of what each row adds to what was known of its impression.

    ``auxiliary["hazard"]`` is the log of :math:`\lambda`, in feedbacks a window.

    References
    ----------
    O. Chapelle (2014), see `onstream.feedback.DelayedFeedback`.
    """
    assert policy.early_s is not None
    log_rate = late.auxiliary["hazard"].clamp(-_MOST_RATE, _MOST_RATE)
    log_chance, log_rest = -F.softplus(-late.logits), -F.softplus(late.logits)
    early = policy.early_s / policy.window_s
    unanswered = -torch.logaddexp(log_rest, log_chance - log_rate.exp() * early)
    answered = log_rate.exp() * late.elapsed - log_rate - log_chance
    outcome = torch.where(late.labels > 0, answered, -log_rest)
    losses = torch.where(late.phase == Phase.EARLY, unanswered, outcome)
    losses = torch.where(late.phase == Phase.CORRECTION, losses - unanswered, losses)
    return losses if kept >= 1 else torch.where(late.labels > 0, losses, losses / kept)


def elapsed_time_sampling(late: Late, policy: Policy, kept: float) -> Tensor:
    r"""Weigh positives by :math:`1 + p_{dp}` and negatives by :math:`(1 + p_{dp}) p_{rn}`, which are estimated beside.

    ``auxiliary["delayed"]`` is :math:`\log p_{dp}` and ``auxiliary["fake"]`` is :math:`\log(1 - p_{rn})`. Both are
    logits of a classifier of emitted rows: corrections against all first rows, whose odds are :math:`p_{dp}`; and
    corrections against early rows, whose odds are :math:`1 - p_{rn}`. So the stream itself teaches them, with no
    wait for windows to close. Their losses are in those of the rows; neither weights nor estimates change the
    other's gradient.

    References
    ----------
    J.-Q. Yang et al. (2021), see `onstream.feedback.ElapsedTimeSampling`; there both are fitted on the outcomes of
    a day before. In the weights, :math:`p_{rn}` is at least 0.1.
    """
    delayed, fake = late.auxiliary["delayed"], late.auxiliary["fake"]
    late_chance = delayed.detach().clamp(max=0).exp()
    real = (1 - fake.detach().clamp(max=0).exp()).clamp(min=1 - MOST_CHANCE)
    positive = (1 + late_chance) * F.softplus(-late.logits)
    negative = (1 + late_chance) * real * F.softplus(late.logits)
    corrects = (late.phase == Phase.CORRECTION).float()
    count = torch.where(late.labels > 0, 1.0, 1.0 / kept)
    taught = count * F.binary_cross_entropy_with_logits(delayed, corrects, reduction="none")
    slow = (late.phase == Phase.EARLY) | (late.phase == Phase.CORRECTION)
    taught_slow = count * F.binary_cross_entropy_with_logits(fake, corrects, reduction="none")
    return torch.where(late.labels > 0, positive, negative) + taught + torch.where(slow, taught_slow, 0.0)


LATE_LOSSES: dict[type[Policy], LateLoss] = {
    FakeNegativeWeighted: fake_negative_weighted,
    FakeNegativeCalibrated: fake_negative_calibrated,
    DelayedFeedback: delayed_feedback,
    ElapsedTimeSampling: elapsed_time_sampling,
}
"""By policy."""

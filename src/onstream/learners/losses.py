"""Losses by name: what a label's prediction costs, row by row, and how a network's output becomes a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from onstream.contracts import Label
from onstream.errors import JobError
from onstream.feedback import FakeNegativeCalibrated
from onstream.learners.late import MOST_CHANCE, late_policy, shift

__all__ = ["LOSSES", "Loss", "activate", "choose_loss"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> losses, one a row. Outputs are logits (rows,), values (rows,) or (rows, classes)."""


def _binary(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")


def _classes(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels.long(), reduction="none")


def _square(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.mse_loss(outputs, labels, reduction="none")


def _absolute(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.l1_loss(outputs, labels, reduction="none")


def _huber(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.huber_loss(outputs, labels, reduction="none")


LOSSES: dict[str, dict[str, Loss]] = {
    "binary": {"bce": _binary},
    "class": {"cross_entropy": _classes},
    "real": {"mse": _square, "mae": _absolute, "huber": _huber},
}
"""By task; the first of each is its default."""


def choose_loss(label: Label, wanted: str | Loss | None) -> Loss:
    """Return the loss of a label.

    Raises
    ------
    JobError
        If the task has no loss of that name, or the label has that of its policy of late feedback.
    """
    known = LOSSES[label.task]
    if wanted is not None and (policy := late_policy(label)):
        raise JobError(
            f"label {label.name!r} has the loss of its policy {policy.kind!r}; leave out its own, or use 'wait'"
        )
    if wanted is None:
        return next(iter(known.values()))
    if not isinstance(wanted, str):
        return wanted
    if wanted not in known:
        raise JobError(
            f"label {label.name!r} is {label.task}: loss must be one of {list(known)}, got {wanted!r}"
        )
    return known[wanted]


def activate(label: Label, outputs: Tensor) -> Tensor:
    """Turn a network's outputs for one label into its predictions: probabilities or values, of the full stream."""
    if label.task == "binary":
        if (added := shift(label)) != 0:
            outputs = outputs + added
        if isinstance(label.policy, FakeNegativeCalibrated):
            # b / (1 - b) of b = sigmoid(z) is e^z.
            return outputs.clamp(max=math.log(MOST_CHANCE)).exp()
        return torch.sigmoid(outputs)
    if label.task == "class":
        return torch.softmax(outputs, dim=1)
    return outputs

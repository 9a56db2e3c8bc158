"""A loss that makes several outputs of one network the heads of a bootstrap."""

from __future__ import annotations

import torch
from torch import Tensor

from onstream.errors import JobError
from onstream.learners.losses import LOSSES, Loss

__all__ = ["bootstrapped"]


def bootstrapped(loss: str | Loss) -> Loss:
    """Return a loss that counts each row as often as a Poisson draw of mean 1 says.

    Use it for every head of a network: labels that read one column, such as ``Label("click_0", column="click")``.
    Each head then learns from another resampling of the stream, and how far they differ tells how sure they are.

    Parameters
    ----------
    loss : str or callable
        A name of `onstream.learners.losses.LOSSES`, or a function of (outputs, labels) giving one loss a row.

    Raises
    ------
    JobError
        If there is no loss of that name.

    References
    ----------
    Oza, Russell (2001), Online Bagging and Boosting, AISTATS, section 2.
    """
    known = {name: found for losses in LOSSES.values() for name, found in losses.items()}
    if isinstance(loss, str) and loss not in known:
        raise JobError(f"bootstrapped: loss must be one of {sorted(known)} or callable, got {loss!r}")
    plain = known[loss] if isinstance(loss, str) else loss

    def resampled(outputs: Tensor, labels: Tensor) -> Tensor:
        # From PyTorch's generator, which is part of the checkpoint.
        return plain(outputs, labels) * torch.poisson(torch.ones_like(labels))

    return resampled

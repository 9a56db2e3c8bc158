"""Logistic regression."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["LR"]


class LR(nn.Module):
    """Logistic regression: one weight an id, learned in the tables, and one a number.

    The first thing to try, and what every other network must beat. Ids have ``dim=1``.

    References
    ----------
    McMahan et al., "Ad Click Prediction: a View from the Trenches", KDD 2013; with `FTRL` as the optimizer of the rows
    it is that paper's model.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = nn.LazyLinear(1, bias=False)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        return self.bias + self.numbers(x.numbers()).squeeze(1) + x.stack().sum((1, 2))

"""Multilayer perceptron."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["MLP"]


class MLP(nn.Module):
    """A deep network over the rows of all ids and all numbers, side by side.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.

    References
    ----------
    Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016, section 4.
    """

    def __init__(self, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        layers = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.LazyLinear(1))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        return self.deep(torch.cat([x.stack().flatten(1), x.numbers()], 1)).squeeze(1)

"""Neural factorization machine."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["NFM"]


class NFM(nn.Module):
    """Neural factorization machine (He, Chua 2017): the pairs of an FM as one vector, and a network over it.

    A small deep network: its first layer is as wide as one vector, however many features there are. The first number
    of a row is the id's weight, the others are its vector.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.

    References
    ----------
    He, Chua, "Neural Factorization Machines for Sparse Predictive Analytics", SIGIR 2017, equations 2 to 6, without
    batch norm and dropout.
    """

    def __init__(self, hidden: tuple[int, ...] = (64,)) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = nn.LazyLinear(1, bias=False)
        layers = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.LazyLinear(1, bias=False))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()  # (rows, features, dim)
        linear, v = rows[..., 0].sum(1), rows[..., 1:]
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1))  # (rows, dim - 1)
        return self.bias + self.numbers(x.numbers()).squeeze(1) + linear + self.deep(pairs).squeeze(1)

"""Factorization machine."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["FM"]


class FM(nn.Module):
    """Factorization machine (Rendle 2010): a weight for each id, and for each pair the product of their vectors.

    Learns which ids go together, also of pairs that never met, at the cost of a linear model. The first number of a
    row is the id's weight, the others are its vector.

    References
    ----------
    Rendle, "Factorization Machines", ICDM 2010: equation 1, computed in linear time as lemma 3.1 shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = nn.LazyLinear(1, bias=False)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()  # (rows, features, dim)
        linear, v = rows[..., 0].sum(1), rows[..., 1:]
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return self.bias + self.numbers(x.numbers()).squeeze(1) + linear + pairs

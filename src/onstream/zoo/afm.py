"""Attentional factorization machine."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["AFM"]


class AFM(nn.Module):
    """Attentional factorization machine (Xiao et al. 2017): the pairs of an FM, weighed by a small network.

    Tells pairs that matter from those that are noise. The first number of a row is the id's weight, the others are its
    vector.

    Parameters
    ----------
    attention : int
        Width of the attention network.

    References
    ----------
    Xiao et al., "Attentional Factorization Machines: Learning the Weight of Feature Interactions via Attention
    Networks", IJCAI 2017, equations 3 to 6, without dropout.
    """

    def __init__(self, attention: int = 8) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = nn.LazyLinear(1, bias=False)
        self.attention = nn.Sequential(nn.LazyLinear(attention), nn.ReLU(), nn.LazyLinear(1, bias=False))
        self.pooled = nn.LazyLinear(1, bias=False)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()  # (rows, features, dim)
        linear, v = rows[..., 0].sum(1), rows[..., 1:]
        one, other = torch.triu_indices(v.shape[1], v.shape[1], 1)
        pairs = v.index_select(1, one) * v.index_select(1, other)  # (rows, pairs, dim - 1)
        weights = self.attention(pairs).softmax(1)
        attended = self.pooled((weights * pairs).sum(1)).squeeze(1)
        return self.bias + self.numbers(x.numbers()).squeeze(1) + linear + attended

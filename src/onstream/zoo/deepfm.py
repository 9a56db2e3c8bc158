"""DeepFM."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["DeepFM"]


class DeepFM(nn.Module):
    """DeepFM (Guo et al. 2017): a factorization machine beside a deep network over the same vectors.

    A strong first choice for clicks. The first number of a row is the id's weight, the others are its vector.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers.

    References
    ----------
    Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017, equations 1 to
    4.
    """

    def __init__(self, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.numbers = nn.LazyLinear(1, bias=False)
        layers = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.LazyLinear(1))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()  # (rows, features, dim)
        linear, v = rows[..., 0].sum(1) + self.numbers(x.numbers()).squeeze(1), rows[..., 1:]
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return linear + pairs + self.deep(torch.cat([v.flatten(1), x.numbers()], 1)).squeeze(1)

"""Wide & Deep."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["WideDeep"]


class WideDeep(nn.Module):
    """Wide & Deep (Cheng et al. 2016): a linear model that remembers beside a network that generalises.

    The first number of a row is the id's weight in the wide part; the deep part sees the rest. Crossed features,
    which the paper's wide part lives of, are columns of the source, such as user and ad in one text.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers of the deep part.

    References
    ----------
    Cheng et al., "Wide & Deep Learning for Recommender Systems", DLRS 2016, equation 3.
    """

    def __init__(self, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.wide = nn.LazyLinear(1, bias=False)
        layers = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.ReLU())]
        self.deep = nn.Sequential(*layers, nn.LazyLinear(1))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()  # (rows, features, dim)
        wide = rows[..., 0].sum(1) + self.wide(x.numbers()).squeeze(1)
        return wide + self.deep(torch.cat([rows[..., 1:].flatten(1), x.numbers()], 1)).squeeze(1)

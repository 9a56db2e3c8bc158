"""Deep & Cross Network V2."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["DCN"]


class Cross(nn.LazyLinear):
    """A linear layer as wide as its input."""

    def initialize_parameters(self, input: Tensor) -> None:
        self.out_features = input.shape[1]
        super().initialize_parameters(input)


class DCN(nn.Module):
    """DCN V2 (Wang et al. 2021): layers that multiply the input with learned mixtures of it, and a network.

    Each cross layer raises the order of the interactions by one. Choose it where more than pairs count, and where
    numbers interact with ids.

    Parameters
    ----------
    layers : int
        Cross layers.
    hidden : tuple of int
        Widths of the hidden layers of the deep network.

    References
    ----------
    Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems",
    WWW 2021, equation 1, stacked structure.
    """

    def __init__(self, layers: int = 2, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.cross = nn.ModuleList(Cross(0) for _ in range(layers))
        deep = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.ReLU())]
        self.deep = nn.Sequential(*deep, nn.LazyLinear(1))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        first = crossed = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        for layer in self.cross:
            crossed = first * layer(crossed) + crossed
        return self.deep(crossed).squeeze(1)

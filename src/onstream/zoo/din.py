"""Deep Interest Network."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["DIN"]


class DIN(nn.Module):
    """Deep Interest Network (Zhou et al. 2018): what of a history has to do with the candidate counts most.

    Choose it where there are histories. The history is an `IdList` with ``pooling="pad"`` that shares the rows of the
    candidate's `Id`.

    Parameters
    ----------
    candidate, history : str
        Names of the two features.
    hidden : tuple of int
        Widths of the hidden layers.

    References
    ----------
    Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, equation 3: weights are not
    normalised, so that many like items count more than one. With PReLU instead of Dice.

    Notes
    -----
    What is alike shows in the products of vectors: let the rows begin wider than by default, such as with
    ``initial=Normal(0, 0.3)``, and attention is found much sooner.
    """

    def __init__(self, candidate: str, history: str, hidden: tuple[int, ...] = (128, 64)) -> None:
        super().__init__()
        self.candidate, self.history = candidate, history
        self.attention = nn.Sequential(
            nn.LazyLinear(64), nn.PReLU(), nn.Linear(64, 32), nn.PReLU(), nn.Linear(32, 1)
        )
        layers = [layer for width in hidden for layer in (nn.LazyLinear(width), nn.PReLU())]
        self.deep = nn.Sequential(*layers, nn.LazyLinear(1))

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        seen, wanted = x[self.history], x[self.candidate].unsqueeze(1).expand_as(x[self.history])
        weights = self.attention(torch.cat([seen, wanted, seen - wanted, seen * wanted], 2))
        interest = (weights * x.mask(self.history).unsqueeze(2) * seen).sum(1)
        return self.deep(torch.cat([x.stack().flatten(1), interest, x.numbers()], 1)).squeeze(1)

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
        self.numbers, self.pooled = nn.LazyLinear(1, bias=False), nn.LazyLinear(1)
        self.hidden, self.score = nn.LazyLinear(attention), nn.Linear(attention, 1, bias=False)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        linear, v = x.stack()[..., 0].sum(1), x.stack()[..., 1:]  # (rows, features, dim - 1)
        scores, bias = [], self.hidden(v.new_zeros(1, v.shape[2])).repeat(1, v.shape[1])
        # W (one * other) is one (W * other): products of matrices, in blocks whose memory is soon used again.
        for at in range(0, v.shape[1], 10):
            one, other = v[:, : at + 10], v[:, at : at + 10]
            mixed = (other.unsqueeze(2) * self.hidden.weight).flatten(1, 2)
            hidden = (one @ mixed.transpose(1, 2)).add_(bias[:, : mixed.shape[1]]).relu_()
            score = self.score(hidden.view(*hidden.shape[:2], other.shape[1], -1)).squeeze(3)
            scores.append(nn.functional.pad(score, (0, 0, 0, v.shape[1] - one.shape[1])))
        pairs = torch.cat(scores, 2)  # of which those above the diagonal count
        pairs = pairs.masked_fill(torch.ones_like(pairs[0]).tril() > 0, -torch.inf)
        weights = pairs.flatten(1).softmax(1).view_as(pairs)
        attended = self.pooled((v * (weights @ v)).sum(1))
        return linear + (self.numbers(x.numbers()) + attended).squeeze(1)

"""Attentional factorization machine."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["AFM"]


class AFM(nn.Module):
    """Attentional factorization machine (Xiao et al. 2017): the pairs of an FM, weighed by a small network.

    Tells pairs that matter from those that are noise. The first number of a row is the id's weight, the others are its
    vector. The last vector of the paper is 1 and what is learned besides, times half of the features squared: so it
    begins about as an FM. Pairs are made by products of matrices, since W (one * other) is (W * other) one.

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
        scores, bias = [], self.hidden(v.new_zeros(1, v.shape[2]))
        weight = torch.cat([self.hidden.weight, bias.T], 1).unsqueeze(1)
        constant = nn.functional.pad(v, (0, 1), value=1.0)  # whose weight is the bias
        heads = self.score.weight.expand(v.shape[0], 1, -1)
        for at in range(0, v.shape[1], 13):  # in blocks whose memory is soon used again
            one, other = constant[:, : at + 13], constant[:, at : at + 13]
            h = ((other.unsqueeze(1) * weight).flatten(1, 2) @ one.transpose(1, 2)).relu_()
            score = (heads @ h.view(v.shape[0], bias.shape[1], -1)).squeeze(1)
            score = score.view(v.shape[0], -1, one.shape[1]).transpose(1, 2)
            scores.append(nn.functional.pad(score, (0, 0, 0, v.shape[1] - one.shape[1])))
        pairs = torch.cat(scores, 2).masked_fill(v.new_ones(2 * v.shape[1:2]).tril() > 0, -torch.inf)
        attended = (v * (pairs.flatten(1).softmax(1).view_as(pairs) @ v)).sum(1) * (v.shape[1] ** 2 / 2)
        return linear + attended.sum(1) + (self.pooled(attended) + self.numbers(x.numbers())).squeeze(1)

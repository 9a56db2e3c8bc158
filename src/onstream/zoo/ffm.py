"""Field-aware factorization machine."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["FFM"]


class FFM(nn.Module):
    """Field-aware factorization machine (Juan et al. 2016): of an id, one vector for each feature it may meet.

    Stronger than `FM` where a pair's meaning depends on the features it is of, for rows that are as many times
    longer: `dim` of the ids is the number of features times that of a vector, such as 4.

    Notes
    -----
    A row is read as (features, vector). What an id keeps for its own feature has no pair, so its first number is the
    id's weight.

    References
    ----------
    Juan et al., "Field-aware Factorization Machines for CTR Prediction", RecSys 2016, equation 4.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.numbers = nn.LazyLinear(1, bias=False)

    def forward(self, x: Inputs) -> Tensor:
        """Return logits (rows,)."""
        rows = x.stack()
        # An id's vector for each feature: (rows, features, features, vector).
        v = rows.view(*rows.shape[:2], rows.shape[1], -1)
        own, weight = torch.eye(rows.shape[1]).unsqueeze(2) > 0, torch.eye(1, v.shape[3])
        # The derivative of all pairs by v is what each vector meets, so one product gives values and gradients.
        met = torch.where(own, weight, v.detach().transpose(1, 2))
        both = torch.linalg.vecdot(v.flatten(1), met.flatten(1))  # weights once, pairs twice
        pairs = 0.5 * (both.detach() - v.detach().diagonal(dim1=1, dim2=2)[:, 0].sum(1))
        return self.bias + self.numbers(x.numbers()).squeeze(1) + both - pairs

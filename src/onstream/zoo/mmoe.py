"""Multi-gate Mixture-of-Experts."""

import torch
from torch import Tensor, nn

from onstream.learners import Inputs

__all__ = ["MMoE"]


class MMoE(nn.Module):
    """Multi-gate Mixture-of-Experts (Ma et al. 2018): each label learns from its mixture of shared networks.

    Choose it for labels that have much but not all in common, such as click and purchase.

    Parameters
    ----------
    *labels : str
        Names of the labels.
    experts : int
        How many shared networks there are.
    width : int
        Of what an expert tells.
    hidden : int
        Width of the hidden layer of each label.

    References
    ----------
    Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018,
    equations 6 and 7.
    """

    def __init__(self, *labels: str, experts: int = 4, width: int = 64, hidden: int = 32) -> None:
        super().__init__()
        self.experts = nn.Sequential(
            nn.LazyLinear(experts * width), nn.ReLU(), nn.Unflatten(1, (experts, width))
        )
        self.gates = nn.ModuleDict({name: nn.LazyLinear(experts) for name in labels})
        towers = ((nn.LazyLinear(hidden), nn.ReLU(), nn.LazyLinear(1)) for _ in labels)
        self.towers = nn.ModuleDict(
            {name: nn.Sequential(*tower) for name, tower in zip(labels, towers, strict=True)}
        )

    def forward(self, x: Inputs) -> dict[str, Tensor]:
        """Return logits (rows,) by label."""
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        told = self.experts(row)  # (rows, experts, width)
        mixed = {name: (gate(row).softmax(1).unsqueeze(2) * told).sum(1) for name, gate in self.gates.items()}
        return {name: tower(mixed[name]).squeeze(1) for name, tower in self.towers.items()}

"""A network for whatever features and labels there are."""

import torch
from torch import nn

from onstream import Torch


class Any(nn.Module):
    """Everything side by side, a hidden layer with dropout, and a head a label."""

    def __init__(self, labels, dropout=0.2):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Dropout(dropout))
        self.heads = nn.ModuleDict({label.name: nn.Linear(16, label.classes or 1) for label in labels})

    def forward(self, x):
        row = self.deep(torch.cat([x[name].flatten(1) for name in x], 1))
        return {name: head(row) for name, head in self.heads.items()}


def torch_learner(layout, kind=Torch, **options):
    """Return a learner for batches of any layout."""
    return kind(lambda: Any(layout.labels), **{"lr": 0.01, "servable": False, **options})

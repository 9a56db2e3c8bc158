"""The job of `bench.freshness`: ten ids of the Criteo layout, and one that only probes have.

Run by the benchmark: DIRECTORY=... onstream run bench/jobs/clicks.py
"""

import os
from pathlib import Path

from torch import nn

from onstream import Constant, Id, Job, Label, Log, Torch

COLUMNS = [f"C{i}" for i in range(1, 11)]
DIRECTORY = Path(os.environ["DIRECTORY"])


class DeepFM(nn.Module):
    """Guo et al. 2017, and one weight for each probe."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        v = x.stack(*COLUMNS)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return pairs + self.deep(v.flatten(1)).squeeze(1) + x["probe"].squeeze(1)


job = Job(
    # A probe that was never learned weighs exactly 0.
    stream=Log(DIRECTORY / "examples.db", retention_rows=2_000_000),
    features=[
        *(Id(name, dim=8) for name in COLUMNS),
        Id("probe", dim=1, initial=Constant(0.0)),
        Label("label"),
    ],
    learner=Torch(DeepFM),
    directory=DIRECTORY / "model",
)

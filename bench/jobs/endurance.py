"""The job of `bench.endurance`. Run by the benchmark: DIRECTORY=... onstream train bench/jobs/endurance.py"""

import os
from pathlib import Path

from torch import nn

from onstream import Id, Job, Label, Log, Torch

DIRECTORY = Path(os.environ["DIRECTORY"])


class Net(nn.Module):
    """One vector an id, and a layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(1)

    def forward(self, x):
        return self.layer(x["user"]).squeeze(1)


job = Job(
    stream=Log(DIRECTORY / "examples.db"),
    features=[Id("user"), Label("click")],
    learner=Torch(Net),
    directory=DIRECTORY / "model",
    checkpoint_every_s=0.25,
    max_wait_s=0.05,
    publish="production",
)

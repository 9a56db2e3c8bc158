"""Will a flight arrive more than 15 minutes late? Every flight that left New York in 2013, in time order.

Run it: onstream train examples/flights.py
"""

from pathlib import Path

import torch
from torch import nn

from onstream import EventTime, Files, Id, Job, Label, Number, Torch

IDS = ("carrier", "flight", "tailnum", "origin", "dest", "hour", "weekday", "month", "sched_arr_time")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

features = [
    *(Id(name, dim=8) for name in IDS),
    *(Number(name, standardize=True) for name in (*WEATHER, "distance")),
    EventTime("scheduled"),
    # Cancelled and diverted flights have no arrival delay, so no label.
    Label("late", required=False),
]


class DeepFM(nn.Module):
    """Guo et al. 2017: pairwise products of embeddings, beside a deep network over them."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(
            nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x):
        v = x.stack()  # (rows, features, dim)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return pairs + self.deep(torch.cat([v.flatten(1), x.numbers()], 1)).squeeze(1)


job = Job(
    stream=Files(Path(__file__).parents[1] / "data" / "flights.parquet"),
    features=features,
    learner=Torch(DeepFM, optimizer="adam", lr=1e-3),
    directory="models/flights",
    batch_size=256,
    checkpoint_every_s=2,
)

"""Will a flight arrive more than 15 minutes late? Every flight that left New York in 2013, in time order.

Run it: onstream train examples/flights.py
"""

from pathlib import Path

import torch
from torch import nn

from onstream import SGD, EventTime, Files, Id, Job, Label, Number, Torch

FLIGHT = ("carrier", "flight", "tailnum", "origin", "dest", "route")
SCHEDULE = ("date", "month", "weekday", "hour", "sched_arr_time")
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

features = [
    *(Id(name, dim=8) for name in (*FLIGHT, *SCHEDULE)),
    *(Number(name, standardize=True) for name in (*WEATHER, "distance")),
    EventTime("scheduled"),
    # Cancelled and diverted flights have no arrival delay, so no label.
    Label("late", required=False),
]


class DeepFM(nn.Module):
    """Guo et al. 2017: a linear part and pairwise products of embeddings, beside a deep network."""

    def __init__(self):
        super().__init__()
        self.wide = nn.LazyLinear(1)
        self.deep = nn.Sequential(
            nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, x):
        rows = x.stack()  # (rows, features, dim); the first number of each id is its linear weight
        linear, v = rows[..., 0].sum(1) + self.wide(x.numbers()).squeeze(1), rows[..., 1:]
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return linear + pairs + self.deep(torch.cat([rows.flatten(1), x.numbers()], 1)).squeeze(1)


job = Job(
    stream=Files(Path(__file__).parents[1] / "data" / "flights.parquet"),
    features=features,
    learner=Torch(DeepFM, optimizer="adam", lr=1e-3),
    # Steps that never shrink: what makes flights late changes with every storm.
    optimizer=SGD(lr=0.02),
    directory="models/flights",
    batch_size=32,
    checkpoint_every_s=2,
)

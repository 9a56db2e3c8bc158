"""A small job over a file of clicks, in this process and as a job file for others."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from onstream import Adagrad, EventTime, Expire, Files, Id, IdList, Job, Label, Number, SeenTimes, Torch

JOB_TEXT = """
import sys
sys.path.insert(0, {root!r})
from tests.jobs.small import small_job
job = small_job({source!r}, {directory!r}, **{options!r})
"""


class Net(nn.Module):
    """Dropout and batch norm, so that random state and buffers count."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(
            nn.LazyLinear(16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1)
        )

    def forward(self, x):
        return self.deep(torch.cat([x.stack().flatten(1), x.numbers()], 1))


def write_clicks(path: Path, rows: int = 6_000, seed: int = 0) -> Path:
    """Write clicks: users come and go over the days, a few rows are bad."""
    draw = random.Random(seed)
    table = {"day": [], "user": [], "item": [], "tags": [], "price": [], "click": []}
    for i in range(rows):
        day = i * 40 // rows
        user = day * 10 + draw.randrange(60)
        table["day"].append(day * 86_400)
        table["user"].append(f"user-{user}")
        table["item"].append(draw.randrange(200))
        table["tags"].append([draw.randrange(30) for _ in range(draw.randrange(4))])
        table["price"].append(None if draw.random() < 0.05 else draw.lognormvariate(0, 1))
        table["click"].append(2 if draw.random() < 0.01 else int((user + table["item"][-1]) % 3 == 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=1_500)
    return path


def small_job(source, directory, *, extra=(), expires=True, servable=False, **options) -> Job:
    features = [
        Id("user", dim=4, admission=SeenTimes(2), expiry=Expire("3d") if expires else None),
        Id("item", dim=4),
        IdList("tags", dim=4, pooling="mean"),
        Number("price", log=True, standardize=True),
        EventTime("day"),
        Label("click"),
        *extra,
    ]
    settings = {"batch_size": 64, "optimizer": Adagrad(lr=0.1), "window": 2_000, "checkpoint_every_s": 0.001}
    return Job(Files(source), features, Torch(Net, servable=servable), directory, **settings | options)


def write_job(path: Path, source: Path, directory: Path, **options) -> Path:
    """Write a job file that makes the same job."""
    root = str(Path(__file__).parents[2])
    path.write_text(JOB_TEXT.format(root=root, source=str(source), directory=str(directory), options=options))
    return path

"""A job over a join of two logs, in this process and as a job file for others."""

import random
from pathlib import Path

import torch
from torch import nn

from onstream import Adagrad, Id, Job, Join, Label, Log, Torch, Wait

JOB_TEXT = """
import sys
sys.path.insert(0, {root!r})
from tests.jobs.joined_job import joined_job
job = joined_job({folder!r}, {directory!r}, **{options!r})
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x):
        return self.deep(torch.cat([x["user"], x["item"]], 1)) + x["request"].sum(1, keepdim=True)


def write_logs(folder: Path, rows: int, seed: int = 0) -> None:
    """Append impressions, two seconds apart, and clicks to some of them within a minute, both in disorder."""
    draw = random.Random(seed)
    shown, clicked = [], []
    for i in range(rows):
        at = 1_600_000_000 + 2 * i
        user, item = draw.randrange(50), draw.randrange(200)
        shown.append(
            (at + draw.uniform(0, 4), {"request": f"r{i}", "at": float(at), "user": user, "item": item})
        )
        if (user + item) % 3 == 0:
            then = at + draw.uniform(1, 60)
            clicked.append((then + draw.uniform(0, 4), {"request": f"r{i}", "at": then}))
    for name, marked in (("shown", shown), ("clicked", clicked)):
        given = [row for _, row in sorted(marked, key=lambda m: m[0])]
        with Log(folder / f"{name}.db") as log:
            for first in range(0, len(given), 50):
                log.append(given[first : first + 50])


def joined_job(folder, directory, *, follow=False, measured=0.0, **options) -> Job:
    shown, clicked = (Log(Path(folder) / f"{name}.db", follow=follow) for name in ("shown", "clicked"))
    join = Join(
        shown,
        clicked,
        on="request",
        time="at",
        label="clicked",
        window="1m",
        policy=Wait(measured=measured),
        memory="20KB",
        **options,
    )
    features = [Id("request", dim=1), Id("user", dim=4), Id("item", dim=4), Label("clicked")]
    return Job(
        join,
        features,
        Torch(Net, servable=False),
        directory,
        batch_size=64,
        optimizer=Adagrad(lr=0.1),
        window=2_000,
        checkpoint_every_s=0.001,
        report_every_s=1e-6,
    )


def write_job(path: Path, folder: Path, directory: Path, **options) -> Path:
    """Write a job file that makes the same job."""
    root = str(Path(__file__).parents[2])
    path.write_text(JOB_TEXT.format(root=root, folder=str(folder), directory=str(directory), options=options))
    return path

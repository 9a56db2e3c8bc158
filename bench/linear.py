"""Logistic regression in one pass over a file, from its bytes to the trained model, beside Vowpal Wabbit and river.

Run it: python -m bench.linear
"""

from __future__ import annotations

import os

# As the command does. Neither Vowpal Wabbit nor river uses OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.ipc
from torch import nn

from bench.common import Figure, compare
from bench.data import COLUMNS, cached, criteo_file
from bench.peers import river_linear, vowpal
from onstream import Adagrad, Constant, Files, Id, Job, Label, Torch

ROWS = 400_000
RIVER_ROWS = 20_000
BATCH_SIZE = 2048
ROUNDS = 5


class LR(nn.Module):
    """One weight an id, all of them in the table."""

    def forward(self, x):
        return x.stack().sum((1, 2))


@dataclass(frozen=True)
class Run:
    """Examples a second from file to trained model, and the progressive log loss."""

    rate: float
    loss: float


def learn(path: Path) -> Run:
    """Learn once from a file, as `onstream train` does: from before the file is opened to the last row learned.

    The checkpoint at the end, and the export of the network for it, are not timed, as Vowpal Wabbit is not asked to
    write its model.
    """
    with tempfile.TemporaryDirectory() as directory:
        job = Job(
            Files(path, column_names=("label", *COLUMNS)) if path.suffix == ".tsv" else Files(path),
            [*(Id(name, dim=1) for name in COLUMNS), Label("label")],
            Torch(LR),
            directory,
            batch_size=BATCH_SIZE,
            optimizer=Adagrad(lr=0.1, initial_accumulator=1.0),
            initial=Constant(0.0),
            checkpoint_every_s=60,
            report_every_s=60,
        )
        summary = job.train()
    label = summary.progress.report.labels["label"]
    return Run(label.examples / summary.seconds, label.overall["log_loss"])


def main() -> None:
    tsv, arrow, text = (criteo_file(form, ROWS) for form in ("tsv", "arrow", "vw"))
    cache = cached(f"criteo-{ROWS}.cache", lambda path: vowpal.write_cache(text, path))
    from_tsv = compare(lambda: learn(tsv).rate, lambda: vowpal.from_text(text).rate, rounds=ROUNDS, warmup=1)
    from_arrow = compare(
        lambda: learn(arrow).rate, lambda: vowpal.from_cache(cache).rate, rounds=ROUNDS, warmup=1
    )
    figure = "logistic regression, file to model"
    for name, peer, found, goal in (
        ("TSV", "Vowpal Wabbit, text", from_tsv, ">= 2"),
        ("Arrow", "Vowpal Wabbit, cache", from_arrow, ">= 1.5"),
    ):
        Figure(f"{figure}, {name}", found.ours, "examples/s", peer, found.peer, found.ratio, goal).report()
    with pyarrow.ipc.open_file(str(arrow)) as reader:
        sample = reader.read_all().slice(0, RIVER_ROWS)
    river = river_linear.criteo(sample)
    ratio = from_tsv.ours / river.rate
    Figure(f"{figure}, TSV", from_tsv.ours, "examples/s", "river", river.rate, ratio, ">= 20").report()
    ours, theirs = learn(tsv).loss, vowpal.from_text(text).loss
    Figure(
        "progressive log loss, one pass", ours, "nats", "Vowpal Wabbit", theirs, ours / theirs, "<= 1.01"
    ).report()


if __name__ == "__main__":
    main()

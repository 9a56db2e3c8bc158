"""A DeepFM job, from an Arrow file to the trained model, beside its bare network and beside plain PyTorch.

Run it: python -m bench.deepfm
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import numpy as np
import torch

from bench.common import Figure, compare, rate
from bench.data import COLUMNS, criteo, criteo_file, dense, zipf_ids
from bench.peers import torch_deepfm
from onstream import Adagrad, Files, Id, Job, Label, Torch
from onstream.trainer import Summary

ROWS = 262_144
BATCH_ROWS = 4096
ROUNDS = 5


class DeepFM(torch_deepfm.DeepFM):
    """The peers' network over named tensors."""

    def forward(self, x):
        return super().forward(x.stack())


def learn(precision: str, *, rows: int = ROWS, checkpoint_every_s: float = 600.0) -> Summary:
    """Learn once from a file, as `onstream train` does."""
    with tempfile.TemporaryDirectory() as directory:
        job = Job(
            Files(criteo_file("arrow", rows)),
            [*(Id(name) for name in COLUMNS), Label("label")],
            Torch(DeepFM, optimizer="adagrad", lr=0.01, precision=precision),
            directory,
            batch_size=BATCH_ROWS,
            optimizer=Adagrad(lr=0.01),
            checkpoint_every_s=checkpoint_every_s,
            report_every_s=600,
        )
        return job.train()


def speed(precision: str) -> Callable[[], float]:
    """Return examples a second from the opening of the file to the last row learned."""

    def measured() -> float:
        torch.set_num_threads(2)
        summary = learn(precision)
        return summary.learned / summary.seconds

    return measured


def main() -> None:
    figure = f"DeepFM, {len(COLUMNS)} x 16, MLP 400-400, batch {BATCH_ROWS}"
    repeats = ROWS // BATCH_ROWS
    for name, input_grads in (
        ("bare network with ready tensors", False),
        ("bare network with ready tensors, and the gradient of its inputs", True),
    ):
        bare = rate(torch_deepfm.bare(BATCH_ROWS, input_grads=input_grads), BATCH_ROWS, repeats=repeats)
        found = compare(speed("fp32"), bare, rounds=ROUNDS, warmup=1)
        Figure(f"{figure}, fp32", found.ours, "examples/s", name, found.peer, found.ratio, ">= 0.85").report()
    ids, num_rows = dense(zipf_ids(ROWS, len(COLUMNS)))
    labels = np.asarray(criteo(ROWS)["label"]).astype(np.float32)
    batches = list(zip(np.split(ids, repeats), np.split(labels, repeats), strict=True))
    plain = rate(torch_deepfm.whole(batches, num_rows), BATCH_ROWS, repeats=repeats)
    found = compare(speed("bf16"), plain, rounds=ROUNDS, warmup=1)
    peer = "plain PyTorch, fp32, sparse embedding, ready tensors"
    Figure(f"{figure}, bf16", found.ours, "examples/s", peer, found.peer, found.ratio, ">= 3").report()
    auc = {p: learn(p).progress.report.labels["label"].overall["auc"] for p in ("fp32", "bf16")}
    Figure("progressive AUC, bf16", auc["bf16"], "AUC", "fp32", auc["fp32"]).report()
    Figure("difference of AUC, bf16 to fp32", abs(auc["bf16"] - auc["fp32"]), "AUC", goal="<= 0.001").report()


if __name__ == "__main__":
    main()

"""A DeepFM job, from an Arrow file to the trained model, beside its bare network and beside plain PyTorch.

Run it: python -m bench.deepfm
"""

from __future__ import annotations

import os

# As the command does. The peers run in processes of their own, without these.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from bench.common import Figure, compare
from bench.data import COLUMNS, criteo_file
from bench.peers import torch_deepfm
from onstream import Adagrad, Files, Id, Job, Label, Torch
from onstream.learners.bfloat import has_bfloat16
from onstream.trainer import Summary

COMMAND = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE")
ROWS = 262_144
BATCH_ROWS = 4096
ROUNDS = 5


class DeepFM(torch_deepfm.DeepFM):
    """The peers' network over named tensors."""

    def forward(self, x):
        return super().forward(x.stack())


def learn(precision: str, *, rows: int = ROWS, checkpoint_every_s: float = 600.0) -> Summary:
    """Learn once from a file, as `onstream train` does.

    The checkpoint at the end, and the export of the network for it, are not timed, as no peer writes its model.
    """
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


@contextmanager
def peer(name: str) -> Iterator[Callable[[], float]]:
    """Start a peer with PyTorch as it comes; gives what returns its examples a second in one more round."""
    command = [sys.executable, "-m", "bench.peers.torch_deepfm", name, str(ROWS)]
    environment = {name: value for name, value in os.environ.items() if name not in COMMAND}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def measured() -> float:
            print(file=asked, flush=True)
            return float(answered.readline())

        yield measured
        # Leaving closes its input, and it ends.


def main() -> None:
    figure = f"DeepFM, {len(COLUMNS)} x 16, MLP 400-400, batch {BATCH_ROWS}"
    bf16 = "bf16" if has_bfloat16() else "bf16 (in float32: this processor would emulate bf16)"
    for precision, name, told, goal in (
        ("fp32", "bare", "bare network with ready tensors", ">= 0.85"),
        ("fp32", "inputs", "bare network with ready tensors, and the gradient of its inputs", ">= 0.85"),
        ("bf16", "whole", "plain PyTorch, fp32, sparse embedding, ready tensors", ">= 3"),
    ):
        with peer(name) as beside:
            found = compare(speed(precision), beside, rounds=ROUNDS, warmup=1)
        which = f"{figure}, {bf16 if precision == 'bf16' else precision}"
        Figure(which, found.ours, "examples/s", told, found.peer, found.ratio, goal).report()
    auc = {p: learn(p).progress.report.labels["label"].overall["auc"] for p in ("fp32", "bf16")}
    Figure(f"progressive AUC, {bf16}", auc["bf16"], "AUC", "fp32", auc["fp32"]).report()
    Figure("difference of AUC, bf16 to fp32", abs(auc["bf16"] - auc["fp32"]), "AUC", goal="<= 0.001").report()


if __name__ == "__main__":
    main()

"""A step of learning with a Keras model, on each backend, beside the PyTorch learner on the same network.

Run it: python -m bench.keras
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import numpy as np
import torch
from torch import nn

from bench.common import Figure, compare, rate
from onstream import Torch
from onstream.contracts import Batch, Field, Label, Layout, State, TableSpec

BACKENDS = ("torch", "jax", "tensorflow")
IDS, DIM, NUMBERS = 26, 16, 13
BATCH_ROWS = 1024
ROUNDS, STEPS = 7, 10

LAYOUT = Layout(
    (
        *(Field(f"c{i}", "id", table="t", column=i, dim=DIM) for i in range(IDS)),
        *(Field(f"n{i}", "number", column=i) for i in range(NUMBERS)),
    ),
    (Label("click", "binary"),),
    (TableSpec("t", DIM, {}, ("c0",)),),
)


class DeepFM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(
            nn.LazyLinear(400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 1)
        )

    def forward(self, x):
        v = x.stack()
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return pairs + self.deep(torch.cat([v.flatten(1), x.numbers()], 1)).squeeze(1)


def made(rows: int) -> tuple[Batch, dict[str, np.ndarray]]:
    """Return a batch, and rows as tables give them."""
    draw = np.random.default_rng(0)
    batch = Batch(
        num_rows=rows,
        keys={"t": draw.integers(1, 1 << 62, rows * IDS).astype(np.uint64)},
        offsets={},
        numbers=draw.standard_normal((rows, NUMBERS)).astype(np.float32),
        tensors={},
        labels={"click": (draw.random(rows) < 0.25).astype(np.float32)},
        weights=None,
        groups={},
        now=0,
        positions={},
        rejects=(),
        state=State(),
    )
    return batch, {"t": draw.uniform(-0.1, 0.1, (rows * IDS, DIM)).astype(np.float32)}


def measure(backend: str) -> None:
    """Measure one backend; Keras takes one a process."""
    import keras
    from keras import layers, ops

    from onstream import Keras

    class KerasDeepFM(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.deep = keras.Sequential(
                [layers.Dense(400, "relu"), layers.Dense(400, "relu"), layers.Dense(1)]
            )

        def call(self, x):
            v = x["stack"]
            pairs = 0.5 * ops.sum(ops.square(ops.sum(v, 1)) - ops.sum(ops.square(v), 1), 1)
            return pairs + self.deep(x["row"])[:, 0]

    torch.set_num_threads(2)
    learners = Keras(KerasDeepFM, servable=False), Torch(DeepFM, servable=False)
    for learner in learners:
        learner.bind(LAYOUT, 0)
    for rows in (BATCH_ROWS, 32):
        batch, pulled = made(rows)
        ours, theirs = (
            rate(partial(learner.learn, batch, pulled), rows, repeats=STEPS) for learner in learners
        )
        found = compare(ours, theirs, rounds=ROUNDS)
        figure = f"Keras on {backend}: DeepFM, {IDS} x {DIM} and {NUMBERS} numbers, MLP 400-400, batch {rows}"
        peer = "the PyTorch learner, same network"
        Figure(figure, found.ours, "examples/s", peer, found.peer, found.ratio).report()


def main() -> None:
    if sys.argv[1:]:
        measure(sys.argv[1])
        return
    for backend in BACKENDS:
        # Waiting threads do not spin, as in `onstream train`.
        environment = os.environ | {
            "KERAS_BACKEND": backend,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "OMP_WAIT_POLICY": "passive",
        }
        subprocess.run([sys.executable, "-m", "bench.keras", backend], env=environment, check=True)


if __name__ == "__main__":
    main()

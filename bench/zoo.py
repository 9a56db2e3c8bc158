"""One training step of the networks of the zoo: rows pulled, predicted, learned from, gradients pushed.

Beside figures of an earlier C++ system on an unnamed machine, and beside the same networks in plain PyTorch.

Run it: python -m bench.zoo
"""

from __future__ import annotations

import os

# As the command does; the peers, in the same process, have it too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.common import Figure, compare, rate
from bench.data import mixed
from bench.peers import torch_zoo
from onstream import zoo
from onstream.contracts import Batch, Field, Label, Layout, State, TableSpec
from onstream.learners import Inputs, Torch
from onstream.tables import Adagrad, TableGroup

BATCH_ROWS = 1024
COLUMNS = 39
IDS = 65_536
DIM = 16
BATCHES = 16
ROUNDS = 9

# Beside the pooled vector or the rows: the widths that the papers, or their authors' programs, use.
HIDDEN = (400, 400)
NFM_HIDDEN = (64,)
ATTENTION = 8

CLICK = Label("click", "binary")
KIND = Label("kind", "class", 10)


@dataclass(frozen=True)
class Row:
    """One network: how it is made here and there, how wide its rows are, and what it has to beat.

    Attributes
    ----------
    width : int
        Of an id's row; 0 for images.
    plain : callable, optional
        Makes the peer where that is written otherwise; from a tensor of rows to logits.
    limit_ms : float
        What the earlier system took.
    times : float
        How many times as fast we are to be.
    """

    name: str
    make: Callable[[], nn.Module]
    width: int
    limit_ms: float
    plain: Callable[[], nn.Module] | None = None
    times: float = 1.0


ROWS = (
    Row("lr", zoo.LR, 1, 5.6),
    Row("fm", zoo.FM, 1 + DIM, 36),
    Row("ffm", zoo.FFM, COLUMNS * DIM, 4700, partial(torch_zoo.PlainFFM, COLUMNS), times=10),
    Row(
        f"afm, attention {ATTENTION}",
        partial(zoo.AFM, ATTENTION),
        1 + DIM,
        443,
        partial(torch_zoo.PlainAFM, COLUMNS, DIM, ATTENTION),
        times=10,
    ),
    Row("nfm, MLP 64", partial(zoo.NFM, NFM_HIDDEN), 1 + DIM, 75),
    Row("wide & deep, MLP 400-400", partial(zoo.WideDeep, HIDDEN), 1 + DIM, 48),
    Row("mlp 400-400", partial(zoo.MLP, HIDDEN), DIM, 19),
    Row("lenet", zoo.LeNet, 0, 205),
    Row("vgg, 6 convolutions of 16 to 128", zoo.VGG, 0, 394),
)


class Plain(nn.Module):
    """A network of the zoo over a plain tensor of rows or images."""

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.network = network
        self.layout = layout

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        part = "tensor/image" if tensor.dim() == 4 else "ids/t"
        return self.network(Inputs(self.layout, {part: tensor, "numbers": tensor.new_empty(len(tensor), 0)}))


def layout_of(row: Row) -> Layout:
    """Return a layout of 39 ids or of one image."""
    if not row.width:
        return Layout((Field("image", "tensor", shape=(1, 28, 28)),), (KIND,), ())
    fields = tuple(Field(f"C{j}", "id", table="t", column=j, dim=row.width) for j in range(COLUMNS))
    names = tuple(field.name for field in fields)
    return Layout(fields, (CLICK,), (TableSpec("t", row.width, {"optimizer": Adagrad()}, names),))


def batch_of(**parts: Any) -> Batch:
    empty: dict[str, Any] = {"keys": {}, "offsets": {}, "tensors": {}, "groups": {}, "positions": {}}
    numbers = np.empty((BATCH_ROWS, 0), np.float32)
    rest = {
        "num_rows": BATCH_ROWS,
        "numbers": numbers,
        "weights": None,
        "now": 0,
        "rejects": (),
        "state": State(),
    }
    return Batch(**{**empty, **rest, **parts})


def ours(row: Row, batches: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[], float]:
    """Return one step: pull, predict and learn, push."""
    layout = layout_of(row)
    learner = Torch(row.make, servable=False)
    learner.bind(layout, seed=0)
    tables = TableGroup(layout.tables, threads=2)
    made = [
        batch_of(keys={"t": mixed(x.astype(np.uint64) + 1).ravel()}, labels={"click": y})
        if row.width
        else batch_of(tensors={"image": x}, labels={"kind": y})
        for x, y in batches
    ]
    ready = itertools.cycle(made)

    def step() -> float:
        batch = next(ready)
        outcome = learner.learn(batch, tables.pull(batch.keys, now=0))
        tables.push(batch.keys, outcome.row_grads)
        return outcome.loss

    return step


def peer(row: Row, batches: list[tuple[np.ndarray, np.ndarray]]) -> Callable[[], float]:
    network = row.plain() if row.plain else Plain(row.make(), layout_of(row))
    if row.width:
        return torch_zoo.on_ids(network, batches, IDS, row.width)
    return torch_zoo.on_images(network, batches)


def examples(row: Row) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return batches of ids or images with labels; every column has its own share of the ids, all equally likely."""
    random = np.random.default_rng(0)
    share = IDS // COLUMNS
    made = []
    for _ in range(BATCHES):
        if row.width:
            ids = random.integers(0, share, (BATCH_ROWS, COLUMNS)) + share * np.arange(COLUMNS)
            made.append((ids, (random.random(BATCH_ROWS) < 0.25).astype(np.float32)))
        else:
            images = random.random((BATCH_ROWS, 1, 28, 28)).astype(np.float32)
            made.append((images, random.integers(0, KIND.classes, BATCH_ROWS).astype(np.float32)))
    return made


def main(names: list[str]) -> None:
    for row in ROWS:
        if names and row.name.split(",")[0].split()[0] not in names:
            continue
        torch.set_num_threads(2)
        torch.manual_seed(0)
        batches = examples(row)
        one, other = ours(row, batches), peer(row, batches)
        for _ in range(BATCHES):
            one()  # every id has its row before the clock starts
        repeats = 4 if row.limit_ms < 100 else 1
        found = compare(
            rate(one, 1, repeats=repeats), rate(other, 1, repeats=repeats), rounds=ROUNDS, warmup=1
        )
        what = f"{COLUMNS} ids of {row.width}" if row.width else "28 x 28 images"
        figure = f"one step of {row.name}, {BATCH_ROWS} x {what}"
        limit = f"<= {row.limit_ms / row.times:.4g}"
        Figure(figure, 1e3 / found.ours, "ms", "an earlier C++ system", row.limit_ms, goal=limit).report()
        rates = (found.ours * BATCH_ROWS, "examples/s", "plain PyTorch, nn.Embedding(sparse=True)")
        Figure(figure, *rates, found.peer * BATCH_ROWS, found.ratio).report()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Small jobs from end to end: each kind of feature and label is learned from."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from onstream import Adagrad, Files, Group, Id, IdList, Job, Label, Number, Tensor, Torch, Weight
from tests.jobs.networks import Sum
from tests.jobs.watch import run

ROWS = 8_000


def learned(tmp_path, columns, features, network, **options):
    """Run a job over columns; return its report over the last quarter."""
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    settings = {"batch_size": 64, "window": ROWS // 4, "optimizer": Adagrad(lr=0.2)}
    job = Job(
        Files(tmp_path / "rows.parquet"),
        features,
        Torch(network, lr=0.01),
        tmp_path / "model",
        **settings | options,
    )
    watch = run(job)
    assert watch.summary.progress.examples == ROWS
    return watch.report.labels


def test_ids_are_learned(tmp_path):
    draw = random.Random(0)
    users = [draw.randrange(100) for _ in range(ROWS)]
    columns = {"user": users, "click": [user % 2 for user in users]}
    assert learned(tmp_path, columns, [Id("user", dim=1), Label("click")], Sum)["click"].window["auc"] > 0.99


def test_rows_of_weight_zero_teach_nothing_and_are_not_measured(tmp_path):
    draw = random.Random(0)
    users = [draw.randrange(100) for _ in range(ROWS)]
    # Two rows of three lie, and do not count.
    lies = [row % 3 > 0 for row in range(ROWS)]
    columns = {
        "user": users,
        "click": [user % 2 ^ lie for user, lie in zip(users, lies, strict=True)],
        "trust": [0.0 if lie else 2.5 for lie in lies],
    }
    features = [Id("user", dim=1), Label("click"), Weight("trust")]
    assert learned(tmp_path, columns, features, Sum)["click"].window["auc"] > 0.99


class Asked(Torch):
    """Counts how often it is asked for what predicts without its code."""

    times = 0

    def export(self):
        self.times += 1
        return super().export()


def test_each_checkpoint_asks_once_for_what_predicts(tmp_path):
    pq.write_table(pa.table({"user": [1, 2] * 100, "click": [0, 1] * 100}), tmp_path / "rows.parquet")
    learner = Asked(Sum, servable=False)
    features = [Id("user", dim=1), Label("click")]
    options = {"batch_size": 10, "checkpoint_every_s": 0.001}
    watch = run(Job(Files(tmp_path / "rows.parquet"), features, learner, tmp_path / "model", **options))
    assert learner.times == watch.summary.progress.version


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        rows = x["user"]
        return {
            "click": rows[:, 0],
            "spent": rows[:, 1] + self.mean,
            "kind": rows[:, 2:5],
        }


def test_several_labels_of_every_task_are_learned_together(tmp_path):
    draw = random.Random(0)
    users = [draw.randrange(60) for _ in range(ROWS)]
    columns = {
        "user": users,
        "click": [None if row % 5 == 0 else user % 2 for row, user in enumerate(users)],
        "spent": [user / 30 + draw.gauss(0, 0.05) for user in users],
        "kind": [user % 3 for user in users],
    }
    features = [
        Id("user", dim=5),
        Label("click", required=False),
        Label("spent", task="real"),
        Label("kind", task="class", classes=3),
    ]
    labels = learned(tmp_path, columns, features, Heads)
    assert labels["click"].window["auc"] > 0.99
    assert labels["click"].examples == ROWS * 4 // 5
    assert labels["spent"].window["r2"] > 0.9
    assert labels["kind"].window["accuracy"] > 0.99


def test_auc_is_measured_within_groups(tmp_path):
    draw = random.Random(0)
    users = [draw.randrange(100) for _ in range(ROWS)]
    items = [draw.randrange(50) for _ in range(ROWS)]
    # Users differ and items too; within a user only items tell.
    clicks = [
        int(draw.random() < (0.8 if user % 2 else 0.2) + (0.15 if item % 2 else -0.15))
        for user, item in zip(users, items, strict=True)
    ]
    columns = {"user": users, "item": items, "click": clicks}
    features = [Id("user", dim=1), Id("item", dim=1), Group("user"), Label("click")]
    label = learned(tmp_path, columns, features, Sum)["click"]
    assert 0.6 < label.groups["user"] < label.window["auc"] < 0.95


class Attention(nn.Module):
    """How much the padded rows of a history are like that of an item."""

    def forward(self, x):
        history, mask = x["history"], x.mask("history")
        scores = (history * x["item"].unsqueeze(1)).sum(2)
        return torch.where(mask, scores, 0.0).sum(1)


def test_padded_lists_are_learned(tmp_path):
    draw = random.Random(0)
    histories = [[draw.randrange(20) for _ in range(draw.randrange(1, 7))] for _ in range(ROWS)]
    items = [draw.randrange(20) for _ in range(ROWS)]
    clicks = [
        int(sum((old - item) % 2 == 0 for old in history[:4]) * 2 > len(history[:4]))
        for history, item in zip(histories, items, strict=True)
    ]
    features = [
        IdList("history", dim=4, pooling="pad", length=4),
        Id("item", dim=4, shared="history"),
        Label("click"),
    ]
    columns = {"history": histories, "item": items, "click": clicks}
    assert learned(tmp_path, columns, features, Attention)["click"].window["auc"] > 0.9


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1))

    def forward(self, x):
        return self.net(x["image"].unsqueeze(1)) + 0 * x.numbers()


def test_tensors_are_learned(tmp_path):
    draw = random.Random(0)
    lit = [draw.randrange(2) for _ in range(ROWS)]
    # A bright row, or a bright column.
    images = []
    for upright in lit:
        at = draw.randrange(6)
        images.append(
            [255 if (i % 6 if upright else i // 6) == at else draw.randrange(128) for i in range(36)]
        )
    columns = {"image": images, "hour": [float(draw.randrange(24)) for _ in range(ROWS)], "click": lit}
    features = [Tensor("image", shape=(6, 6), scale=1 / 255), Number("hour"), Label("click")]
    assert learned(tmp_path, columns, features, Pixels)["click"].window["auc"] > 0.95

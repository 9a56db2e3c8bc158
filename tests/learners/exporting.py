"""Networks of many kinds, and a way to export one in a process of its own."""

import sys

import torch
import torch.nn.functional as F
from torch import nn

from onstream import zoo
from onstream.contracts import Field, Label, Layout, TableSpec
from onstream.learners import Torch
from tests.learners.batches import drawn

BINARY = (Label("click", "binary"),)


def made(*fields: Field, labels=BINARY) -> Layout:
    """Return a layout with a table for each name that the fields say."""
    dims = {field.table: field.dim for field in fields if field.table}
    return Layout(fields, labels, tuple(TableSpec(name, dim, {}, (name,)) for name, dim in dims.items()))


def ids(count: int, table="t", dim=4) -> tuple[Field, ...]:
    return tuple(Field(f"{table}{j}", "id", table=table, column=j, dim=dim) for j in range(count))


def numbers(count: int) -> tuple[Field, ...]:
    return tuple(Field(f"n{j}", "number", column=j) for j in range(count))


class Lists(nn.Module):
    """Lists summed, averaged, and padded with attention over what is there."""

    def __init__(self):
        super().__init__()
        self.ask = nn.Linear(4, 4)
        self.last = nn.Linear(12, 1)

    def forward(self, x):
        history, there = x["history"], x.mask("history")
        scores = (self.ask(x["tags"]).unsqueeze(1) * history).sum(2)
        weights = torch.where(there, scores, torch.tensor(-1e9)).softmax(1) * there
        seen = (weights.unsqueeze(2) * history).sum(1)
        return self.last(torch.cat([x.stack("tags", "words").flatten(1), seen], 1))


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.last = nn.LazyLinear(1)

    def forward(self, x):
        image = x["image"].permute(0, 3, 1, 2)
        found = F.max_pool2d(torch.relu(self.conv(image)), 2).flatten(1)
        return self.last(torch.cat([found, x["t0"]], 1))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.LazyLinear(8)
        self.heads = nn.ModuleDict(
            {"click": nn.Linear(8, 1), "price": nn.Linear(8, 1), "kind": nn.Linear(8, 3)}
        )

    def forward(self, x):
        hidden = torch.tanh(self.shared(torch.cat([x.stack().flatten(1), x.numbers()], 1)))
        return {name: head(hidden) for name, head in self.heads.items()}


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(3)

    def forward(self, x):
        return self.last(x.stack().flatten(1))


class Modal(nn.Module):
    """Dropout, batch norm, a buffer that is not kept, and a constant."""

    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(
            nn.LazyLinear(16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(16, 1)
        )
        self.register_buffer("scale", torch.full((13,), 0.5), persistent=False)

    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1) * self.scale
        row = row + torch.arange(13.0) + row.new_zeros(x.num_rows, 1)
        return self.deep(row)


class Tables(nn.Module):
    """Ids of two widths; part of a stack."""

    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(1)

    def forward(self, x):
        return self.last(torch.cat([x.stack("t1", "t2").flatten(1), x.stack("u0").sum(1), x["t0"]], 1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x):
        return self.layer(x.stack()).sum((1, 2))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.last = nn.Linear(5, 1)

    def forward(self, x):
        return self.last(self.gru(x["history"])[0][:, -1])


class Plain(nn.Module):
    """A network without parameters that gives what it was given."""

    def forward(self, x):
        return x["t0"][:, 0]


class Numbers(nn.Module):
    def forward(self, x):
        return x.numbers()


NETWORKS = {
    "lr": (zoo.LR, made(*ids(3, dim=1), *numbers(2))),
    "mlp": (zoo.MLP, made(*ids(3), *numbers(1))),
    "deepfm": (zoo.DeepFM, made(*ids(3), *numbers(1))),
    "deepfm without numbers": (zoo.DeepFM, made(*ids(3))),
    "lists": (
        Lists,
        made(
            Field("tags", "list", table="t", dim=4, pooling="mean"),
            Field("words", "list", table="t", dim=4, pooling="sum"),
            Field("history", "list", table="t", dim=4, pooling="pad", length=3),
            *ids(1),
        ),
    ),
    "image": (Image, made(Field("image", "tensor", shape=(6, 6, 1)), *ids(1))),
    "several labels": (
        Several,
        made(*ids(2), *numbers(1), labels=(*BINARY, Label("price", "real"), Label("kind", "class", 3))),
    ),
    "class": (Classes, made(*ids(3), labels=(Label("kind", "class", 3),))),
    "modal": (Modal, made(*ids(3), *numbers(1))),
    "two tables": (Tables, made(*ids(3), *ids(1, "u", 2))),
    "attention": (Attention, made(*ids(3))),
    "recurrent": (Recurrent, made(Field("history", "list", table="t", dim=4, pooling="pad", length=3))),
    "no parameters": (Plain, made(*ids(2), labels=(Label("price", "real"),))),
    "numbers alone": (lambda: nn.Sequential(Numbers(), nn.Linear(2, 1)), made(*numbers(2))),
}


def trained(name: str, **options) -> tuple[Torch, Layout]:
    """Return a learner that has learned three batches."""
    network, layout = NETWORKS[name]
    learner = Torch(network, **options)
    learner.bind(layout, 0)
    for seed in range(3):
        batch, rows = drawn(layout, 64, seed)
        learner.learn(batch, rows)
    return learner, layout


if __name__ == "__main__":
    sys.stdout.buffer.write(trained(sys.argv[1])[0].export().arrays["archive"].tobytes())

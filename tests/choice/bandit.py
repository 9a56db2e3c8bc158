"""A small shop: five items, three kinds of users, and a true rate of clicks for each pair."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from onstream import Adagrad, Id, Job, Label, Log, Normal, Torch
from onstream.choice import ChoiceLog
from onstream.serving.replica import Replica

RATES = np.array([[0.1, 0.6, 0.2, 0.1, 0.3], [0.5, 0.1, 0.1, 0.3, 0.1], [0.2, 0.1, 0.3, 0.1, 0.7]])
ITEMS = RATES.shape[1]
FEATURES = [Id("user", 4), Id("item", 4), Label("click")]


class Net(nn.Module):
    """A bias for the item and one for its pairing with the user."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        user, item = x["user"], x["item"]
        return self.bias + item[:, 0] + (user * item).sum(1)


def candidates(user):
    """Return a request: every item for one user."""
    return pa.RecordBatch.from_pydict(
        {"user": [f"u{user}"] * ITEMS, "item": [f"i{at}" for at in range(ITEMS)]}
    )


class Shop:
    """Users come, are shown what a chooser picks, and click; the job learns from what they were shown."""

    def __init__(self, folder, chooser, *, seed=0, counts=None):
        self.folder = folder
        self.examples = Log(folder / "examples.db", follow=False)
        self.choices = Log(folder / "choices.db", follow=False)
        self.kept = ChoiceLog(self.choices)
        self.chooser = chooser
        self.counts = counts
        self.draw = np.random.default_rng(seed)
        self.requests = 0
        self.model = folder / "model"
        self.replica = None

    def job(self):
        learner = Torch(Net, optimizer="sgd", lr=0.1)
        return Job(
            self.examples,
            FEATURES,
            learner,
            self.model,
            optimizer=Adagrad(0.3),
            # Wide, so that pairs can be told apart soon.
            initial=Normal(0.0, 0.3),
            batch_size=16,
            checkpoint_every_s=1e9,
        )

    def round(self, requests):
        """Serve so many requests, learn from them, and return the mean of the true rates of what was shown."""
        users = self.draw.integers(0, len(RATES), requests)
        rows = pa.concat_batches([candidates(user) for user in users])
        keys = [self.requests + at // ITEMS for at in range(rows.num_rows)]
        if self.replica is None:
            predictions, version = {"click": np.zeros(rows.num_rows)}, 0
        else:
            with self.replica.reading() as served:
                predictions, version = served.predict(rows), served.version
        counts = None if self.counts is None else self.counts(self, rows)
        choices = self.chooser.choose(predictions, keys, counts=counts)
        shown = choices.index % ITEMS
        clicks = (self.draw.random(requests) < RATES[users, shown]).astype(np.int64)
        self.kept.append(rows, keys, choices, version=version)
        self.kept.reward({self.requests + at: float(click) for at, click in enumerate(clicks) if click})
        examples = [
            {"user": f"u{user}", "item": f"i{item}", "click": int(click)}
            for user, item, click in zip(users, shown, clicks, strict=True)
        ]
        self.examples.append(examples)
        self.requests += requests
        self.job().train()
        if self.replica is None:
            self.replica = Replica(self.model)
        assert self.replica.poll()
        return float(RATES[users, shown].mean())

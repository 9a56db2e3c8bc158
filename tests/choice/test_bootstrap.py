"""Heads of one network that learned from other resamplings differ where little is known."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from onstream import Adagrad, Files, Id, Job, Label, Torch
from onstream.choice import Chooser, Thompson, bootstrapped
from onstream.serving.replica import Replica

HEADS = [f"click_{at}" for at in range(8)]


class Heads(nn.Module):
    """A row of as many floats as there are heads."""

    def forward(self, x):
        return dict(zip(HEADS, torch.unbind(x["item"], dim=1), strict=True))


def test_heads_agree_on_what_is_known_and_thompson_tries_the_rest(tmp_path):
    often = [{"item": "often", "click": at % 2} for at in range(3_000)]
    rare = [{"item": "rare", "click": at % 2} for at in range(4)]
    pq.write_table(pa.Table.from_pylist([*often[:1_500], *rare, *often[1_500:]]), tmp_path / "shown.parquet")
    labels = [Label(name, column="click") for name in HEADS]
    learner = Torch(Heads, loss=dict.fromkeys(HEADS, bootstrapped("bce")))
    features = [Id("item", len(HEADS), optimizer=Adagrad(1.0)), *labels]
    Job(Files(tmp_path / "shown.parquet"), features, learner, tmp_path / "model", batch_size=4).train()
    replica = Replica(tmp_path / "model")
    assert replica.poll()
    with replica.reading() as version:
        found = version.predict([{"item": "often"}, {"item": "rare"}])
    heads = np.stack([found[name] for name in HEADS])
    assert heads[:, 0].mean() == pytest.approx(0.5, abs=0.1)
    assert heads[:, 1].std() > 2 * heads[:, 0].std()
    choices = Chooser(Thompson(floor=0.0), heads=HEADS).choose(found, ["r", "r"])
    assert choices.propensities.sum() == 1
    assert (choices.propensities * len(HEADS) % 1 == 0).all()
    assert 0 < choices.propensities[1] < 1

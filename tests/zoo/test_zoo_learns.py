"""Each network of the zoo learns what it is made for."""

from functools import partial

import pytest
from torch import nn

from onstream import Adagrad, Files, Id, IdList, Job, Label, Normal, Torch, zoo
from onstream.cli.templates import write_sample
from tests.zoo.flights import IDS, aucs, write_flights

DIM = 9


@pytest.fixture(scope="module")
def flights(tmp_path_factory):
    return write_flights(tmp_path_factory.mktemp("flights") / "flights.parquet")


@pytest.fixture(scope="module")
def linear(flights, tmp_path_factory):
    """The AUC of logistic regression by label."""
    folder = tmp_path_factory.mktemp("lr")
    return {
        label: aucs(flights, folder / label, zoo.LR, dim=1, labels=(label,))[label]
        for label in ("late", "cancelled")
    }


@pytest.mark.parametrize(
    ("network", "dim"),
    [
        (zoo.FM, DIM),
        (zoo.FFM, 4 * len(IDS)),
        (zoo.AFM, DIM),
        (zoo.NFM, DIM),
        (zoo.WideDeep, DIM),
        (zoo.DeepFM, DIM),
        (zoo.DCN, DIM),
        (zoo.MLP, DIM),
    ],
)
def test_networks_with_interactions_predict_flights_better_than_a_linear_model(
    flights, linear, tmp_path, network, dim
):
    assert aucs(flights, tmp_path, network, dim=dim)["late"] > linear["late"] + 0.01


def test_mmoe_predicts_each_of_two_labels_better_than_a_linear_model_of_that_label(flights, linear, tmp_path):
    labels = ("late", "cancelled")
    found = aucs(flights, tmp_path, partial(zoo.MMoE, *labels), dim=DIM, labels=labels)
    assert all(found[label] > linear[label] + 0.01 for label in labels), (found, linear)


class Equal(nn.Module):
    """Weighs all alike."""

    def forward(self, pairs):
        return pairs.new_ones(*pairs.shape[:2], 1)


def without_attention():
    network = zoo.DIN("item", "history")
    network.attention = Equal()
    return network


def test_din_finds_what_of_a_history_counts_which_a_sum_does_not(tmp_path):
    write_sample(tmp_path / "histories.csv", "din", 12_000)
    history = IdList("history", separator="|", pooling="pad", length=12, shared="item")
    reached = {}
    for name, network in (("din", partial(zoo.DIN, "item", "history")), ("sum", without_attention)):
        job = Job(
            Files(tmp_path / "histories.csv"),
            [Id("item"), history, Label("click")],
            Torch(network, lr=0.003, servable=False),
            tmp_path / name,
            batch_size=64,
            optimizer=Adagrad(lr=0.05),
            initial=Normal(0, 0.3),
            checkpoint_every_s=600,
        )
        reached[name] = job.train().progress.report.labels["click"].overall["auc"]
    assert reached["din"] > reached["sum"] + 0.05, reached

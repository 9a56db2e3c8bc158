"""The networks of the zoo compute what their papers say, and can be served."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from onstream import zoo
from onstream.contracts import Layout, State
from onstream.learners import ExportedNetwork, Torch
from onstream.learners.inputs import Inputs, gather_inputs
from tests.learners.batches import drawn
from tests.learners.exporting import ids, made, numbers
from tests.zoo.networks import NETWORKS


def test_every_network_of_the_zoo_is_tested():
    tested = {getattr(network, "func", network).__name__ for network, _ in NETWORKS.values()}
    assert tested == set(zoo.__all__)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_network_predicts_with_the_bits_of_the_learner(name):
    network, layout = NETWORKS[name]
    learner = Torch(network)
    learner.bind(layout, 0)
    losses = [learner.learn(*drawn(layout, 32, 0)).loss for _ in range(5)]
    assert losses[-1] < losses[0]
    assert learner.notes == []
    exported = ExportedNetwork(learner.export(), layout)
    stored = learner.state().arrays
    exported.load(
        State({key.removeprefix("network/"): stored[key] for key in stored if key.startswith("network/")})
    )
    for rows in (1, 7, 300):
        batch, pulled = drawn(layout, rows, 9)
        expected, found = learner.predict(batch, pulled), exported.predict(batch, pulled)
        for label in expected:
            np.testing.assert_array_equal(found[label], expected[label])


def test_parameters_of_a_network_without_numbers_begin_as_the_seed_says():
    layout = made(*ids(3, dim=1))
    batch, rows = drawn(layout, 4)
    learner = Torch(zoo.LR, servable=False)
    learner.bind(layout, 0)
    learner.predict(batch, rows)
    assert learner.state().arrays["network/bias"].tolist() == [0.0]


# ----------------------------------------------------------------- pairs, beside the sums that papers write


def both(network: torch.nn.Module, layout: Layout) -> tuple[Inputs, torch.Tensor]:
    """Return inputs in double precision whose rows take gradients, and the rows."""
    torch.manual_seed(0)
    batch, rows = drawn(layout, 6)
    batch = replace(batch, numbers=batch.numbers.astype(np.float64))
    leaves = {name: torch.from_numpy(array).double().requires_grad_() for name, array in rows.items()}
    x = gather_inputs(layout, batch, leaves)
    network.double()(x)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return x, leaves["t"]


def check(network, layout, expected):
    """Compare logits, and the gradients of their squares, with what a formula gives."""
    x, rows = both(network, layout)
    outputs = [network(x), expected(network, x)]
    torch.testing.assert_close(*outputs, rtol=1e-11, atol=1e-11)
    over = [rows, *network.parameters()]
    grads = [torch.autograd.grad(o.square().sum(), over, retain_graph=True) for o in outputs]
    for found, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def rest(network, x):
    return network.bias + x.numbers() @ network.numbers.weight[0]


def fm(network, x):
    rows = x.stack()
    v = rows[..., 1:]
    pairs = sum((v[:, i] * v[:, j]).sum(1) for i, j in combinations(range(rows.shape[1]), 2))
    return rest(network, x) + rows[..., 0].sum(1) + pairs


def ffm(network, x):
    rows = x.stack()
    fields = rows.shape[1]
    v = rows.view(len(rows), fields, fields, -1)
    pairs = sum((v[:, i, j] * v[:, j, i]).sum(1) for i, j in combinations(range(fields), 2))
    return rest(network, x) + sum(v[:, i, i, 0] for i in range(fields)) + pairs


def afm(network, x):
    rows = x.stack()
    v = rows[..., 1:]
    pairs = torch.stack([v[:, i] * v[:, j] for i, j in combinations(range(rows.shape[1]), 2)], 1)
    weights = torch.softmax(network.score(network.hidden(pairs).relu()).squeeze(2), 1)
    average = torch.einsum("np,npk->nk", weights, pairs) * (rows.shape[1] ** 2 / 2)
    attended = average @ (1 + network.pooled.weight[0]) + network.pooled.bias
    return x.numbers() @ network.numbers.weight[0] + rows[..., 0].sum(1) + attended


@pytest.mark.parametrize("features", [2, 5, 6])
def test_an_fm_sums_the_products_of_all_pairs(features):
    check(zoo.FM(), made(*ids(features), *numbers(2)), fm)


@pytest.mark.parametrize("features", [2, 5, 6])
def test_an_ffm_sums_the_products_of_what_each_pair_has_for_the_other(features):
    check(zoo.FFM(), made(*ids(features, dim=3 * features), *numbers(2)), ffm)


@pytest.mark.parametrize("features", [2, 5, 20, 21, 45])
def test_an_afm_weighs_all_pairs_by_attention(features):
    check(zoo.AFM(), made(*ids(features), *numbers(2)), afm)

"""States of the Keras learner: going on from one gives the same bits."""

import random
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from tests.learners.batches import batch, layout, rows_of
from tests.learners.keras_backend.models import bits, bound, learn, modal, plain


@pytest.mark.parametrize(
    "optimizer",
    [
        "adamw",
        "adagrad",
        "sgd",
        "rmsprop",
        keras.optimizers.Adam(0.01, amsgrad=True),
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    ],
    ids=["adamw", "adagrad", "sgd", "rmsprop", "given", "made"],
)
def test_going_on_from_a_state_gives_the_same_bits(optimizer):
    whole = bound(modal, optimizer=optimizer)
    expected = learn(whole, 4).predictions["y"]
    end = bits(whole)
    first = bound(modal, optimizer=optimizer)
    learn(first, 2)
    state = first.state()
    second = bound(modal, optimizer=optimizer)
    second.load(state)
    assert np.array_equal(learn(second, 2, first=2).predictions["y"], expected)
    assert bits(second) == end
    assert any(name.startswith("optimizer/sequential/dense/kernel/") for name in end) == (optimizer != "sgd")


def test_names_in_the_state_do_not_depend_on_what_was_made_before():
    first = bound(modal)
    learn(first, 1)
    plain(), modal(), layers.Dense(3)
    second = bound(modal)
    learn(second, 1)
    assert list(first.state().arrays) == list(second.state().arrays)
    assert "network/sequential/dense_1/kernel" in first.state().arrays


def test_layers_of_one_name_are_told_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = (layers.Dense(1, name="twin") for _ in range(2))

        def call(self, x):
            return self.one(x["row"]) + self.two(x["numbers"])

    first, second = bound(Twins), bound(Twins)
    learn(first)
    second.load(first.state())
    learn(first, 2, first=3)
    learn(second, 2, first=3)
    assert bits(first, but=["random/"]) == bits(second, but=["random/"])
    assert {n for n in bits(first) if n.startswith("network/")} == {
        f"network/twins/twin/{name}" for name in ("kernel", "bias", "kernel:1", "bias:1")
    }


def test_the_seed_decides_the_first_weights_and_other_generators_stay():
    random.seed(3)
    np.random.seed(3)
    drawn_before = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    weights = []
    for seed in (1, 1, 2):
        learner = bound(seed=seed)
        learner.predict(batch(), rows_of(batch()))
        weights.append(learner.state().arrays["network/sequential/dense/kernel"].tobytes())
    assert weights[0] == weights[1] != weights[2]
    assert (random.random(), np.random.random()) == drawn_before


def test_another_optimizer_and_other_shapes_begin_anew_and_are_told():
    old = bound(optimizer="adam")
    learn(old)
    new = bound(
        lambda: keras.Sequential([layers.Dense(8), layers.Dense(1), layers.Dense(1)]),
        layout(numbers=2),
        optimizer="sgd",
    )
    new.load(old.state())
    learn(new, 1, numbers=2)
    assert new.notes == [
        "these weights are new or have another shape and begin anew: sequential/dense/kernel, "
        "sequential/dense_2/bias, sequential/dense_2/kernel",
        "the optimizer was Adam and is SGD now: its state begins anew",
    ]


def test_the_learning_rate_is_the_jobs_not_the_states():
    old, new = bound(optimizer="sgd", lr=0.5), bound(optimizer="sgd", lr=1e-9)
    learn(old)
    new.load(old.state())
    learn(new, 1)
    kernels = [learner.state().arrays["network/sequential/dense/kernel"] for learner in (old, new)]
    np.testing.assert_allclose(kernels[0], kernels[1], atol=1e-6)


def test_a_bound_learner_can_be_bound_again():
    # `onstream check` and `onstream train` in one process do.
    learner = bound(optimizer=keras.optimizers.Adam(0.01))
    learn(learner)
    learner.bind(layout(), 0)
    learn(learner)
    assert replace(learner, lr=0.5).lr == 0.5

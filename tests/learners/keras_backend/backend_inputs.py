"""What models of Keras are given, and how they act in training and in evaluation."""

import keras
import numpy as np
import pytest
from keras import layers

from onstream.contracts import Label
from onstream.errors import DivergedError
from tests.learners.batches import batch, drawn, layout, rows_of
from tests.learners.keras_backend.models import Any, bits, bound, functional, learn, modal


def test_a_functional_model_gets_what_the_names_of_its_inputs_say():
    learner, example = bound(functional), batch()
    learn(learner)
    expected = learner.predict(example, rows_of(example))["y"]
    weights = learner.state().arrays
    rows = rows_of(example)["t"].reshape(6, 12)
    row = np.concatenate([rows[:, 4:8], example.numbers, rows], 1)
    hidden = np.maximum(row @ weights["network/dense/kernel"] + weights["network/dense/bias"], 0)
    logits = hidden @ weights["network/dense_1/kernel"] + weights["network/dense_1/bias"]
    np.testing.assert_allclose(expected, 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-4)


@pytest.mark.parametrize(
    "form", [lambda x: x, lambda x: [x], lambda x: {"id1": x}], ids=["alone", "list", "dict"]
)
def test_a_functional_model_may_have_one_input(form):
    # Keras warns of inputs that are not of the form that it was made with; warnings are errors here.
    one = keras.Input((4,), name="id1")
    learner = bound(lambda: keras.Model(form(one), layers.Dense(1)(one)))
    learn(learner)


def test_several_labels_are_a_dictionary_by_label():
    labels = (Label("click", "binary"), Label("stars", "class", 5), Label("price", "real"))
    learner, shape = bound(lambda: Any(labels), layout(labels=labels)), layout(labels=labels)
    found = learner.predict(*drawn(shape, 6))
    assert {name: values.shape for name, values in found.items()} == {
        "click": (6,),
        "stars": (6, 5),
        "price": (6,),
    }


def test_a_plain_network_predicts_and_learns_in_one_pass():
    learner = bound()
    learn(learner, 1)
    assert learner.state().facts["modal"] is False


@pytest.mark.parametrize("model", [modal, lambda: keras.Sequential([Switch(), layers.Dense(1)])])
def test_a_model_that_acts_otherwise_in_training_predicts_as_in_evaluation(model):
    learner, example = bound(model), batch(rows=8)
    before = learner.predict(example, rows_of(example))["y"]
    outcome = learner.learn(example, rows_of(example))
    assert learner.state().facts["modal"] is True
    np.testing.assert_allclose(outcome.predictions["y"], before, rtol=1e-5)


class Switch(layers.Layer):
    def call(self, x, training=False):
        return x * 2 if training else x


def test_a_batch_that_is_not_finite_leaves_statistics_and_optimizer_as_they_are():
    learner = bound(modal, max_dropped=3)
    learn(learner)
    before = bits(learner, but=["random/"])
    example = batch()
    for poison in (np.inf, np.nan):
        rows = rows_of(example)
        rows["t"][2, 1] = poison
        outcome = learner.learn(example, rows)
        assert outcome.dropped and outcome.row_grads == {}
    assert bits(learner, but=["random/"]) == before
    with pytest.raises(DivergedError, match="3 batches in a row"):
        learner.learn(example, rows)

"""Exported models of Keras: they predict as the learner, and hostile ones are refused."""

import json

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

from onstream.contracts import State
from onstream.errors import CheckpointError
from onstream.learners.predictors import open_predictor, weights_of
from tests.learners.batches import batch, drawn, layout, rows_of
from tests.learners.keras_backend.models import (
    BACKEND,
    Attention,
    Recurrent,
    bits,
    bound,
    functional,
    modal,
    plain,
    rich_layout,
)

KIND = {"torch": "torch", "jax": "stablehlo", "tensorflow": "graphdef"}[BACKEND]


MODELS = {
    "plain": (plain, layout()),
    "modal": (modal, layout()),
    "functional": (functional, layout()),
    "attention": (Attention, rich_layout()),
    "recurrent": (Recurrent, rich_layout()),
    "no weights": (lambda: keras.Sequential([keras.layers.Lambda(lambda x: ops.sum(x, 1))]), layout()),
}


def exported(name):
    model, shape = MODELS[name]
    learner = bound(model, shape, servable=True)
    for seed in range(2):
        learner.learn(*drawn(shape, 16, seed))
    assert learner.notes == []
    return learner, shape, learner.export()


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_predicts_as_the_learner(name):
    learner, shape, state = exported(name)
    assert state.facts["kind"] == KIND
    opened = open_predictor(State(state.arrays, json.loads(json.dumps(state.facts))), shape)
    opened.load(weights_of(learner.state()))
    for rows in (1, 2, 7, 100, 0):
        example, pulled = drawn(shape, rows, seed=9)
        expected, found = learner.predict(example, pulled), opened.predict(example, pulled)
        np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-5, atol=1e-6)


def test_what_is_exported_has_no_weights_and_none_of_the_users_code():
    learner, _, state = exported("modal")
    (data,) = (array.tobytes() for array in state.arrays.values())
    kernel = learner.state().arrays["network/sequential/dense/kernel"].tobytes()
    for private in (kernel, b"keras_backend", b"/tests/", b"def call"):
        assert private not in data


def test_a_program_of_other_features_or_weights_is_refused():
    learner, shape, state = exported("plain")
    with pytest.raises(CheckpointError, match="the features give"):
        open_predictor(state, layout(ids=2))
    opened = open_predictor(state, shape)
    weights = weights_of(learner.state()).arrays
    name = next(name for name in weights if name.endswith("kernel"))
    for changed in ({n: a for n, a in weights.items() if n != name}, weights | {name: weights[name][1:]}):
        with pytest.raises(CheckpointError, match="of different versions"):
            opened.load(State(changed))


class Counting(keras.Model):
    """Remembers how many rows it saw, also when it predicts."""

    def __init__(self):
        super().__init__()
        self.last = layers.Dense(1)
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, x):
        self.seen.assign_add(1.0)
        return self.last(x["row"])


@pytest.mark.skipif(BACKEND == "torch", reason="export_network has a law of its own for it")
def test_exporting_leaves_the_model_as_it_is():
    learners = [bound(Counting, servable=servable) for servable in (True, False)]
    for learner in learners:
        learner.learn(*drawn(layout(), 16))
        learner.export()
        learner.learn(*drawn(layout(), 16))
    exporting, plain = learners
    assert exporting.export() is not None, exporting.notes
    assert bits(exporting) == bits(plain)


class Sized(keras.Model):
    """Computes in Python what depends on the values."""

    def __init__(self):
        super().__init__()
        self.last = layers.Dense(1)

    def call(self, x):
        return self.last(x["row"]) + np.asarray(x["row"]).mean()


@pytest.mark.skipif(BACKEND != "torch", reason="compiled backends refuse it when they learn")
def test_a_model_that_cannot_be_exported_is_trained_and_told():
    learner = bound(Sized, servable=True)
    with torch.no_grad():
        learner.predict(batch(), rows_of(batch()))
    assert learner.notes == []
    assert (learner.export(), learner.export()) == (None, None)
    [note] = learner.notes
    assert "cannot be exported" in note


@pytest.mark.skipif(BACKEND == "torch", reason="tests/learners/test_export.py has archives of PyTorch")
def test_changed_programs_are_refused():
    _, shape, state = exported("plain")
    data = state.arrays["program"]
    damaged = [
        data[: len(data) // 2],
        np.zeros(100, np.uint8),
        data[:0],
        data.astype(np.float32),
        data[::-1].copy(),
    ]
    for other in damaged:
        with pytest.raises(CheckpointError):
            open_predictor(State({"program": other}, state.facts), shape)
    facts = [
        state.facts | {"format": "onstream.program/9"},
        state.facts | {"parameters": {"w": [[-1], "float32"]}},
        state.facts | {"parameters": {}},
        state.facts | {"parameters": {"w": [[1], "object"]}},
        {name: fact for name, fact in state.facts.items() if name != "parameters"},
    ]
    for other in facts:
        with pytest.raises(CheckpointError):
            opened = open_predictor(State(state.arrays, other), shape)
            opened.load(State())


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
def test_a_program_that_calls_what_is_not_in_it_is_refused():
    from onstream.learners.keras.stablehlo import _check

    text = """module { func.func public @main(%a: tensor<2xf32>) -> tensor<2xf32> {
      %0 = stablehlo.custom_call @xla_python_cpu_callback(%a) : (tensor<2xf32>) -> tensor<2xf32>
      return %0 : tensor<2xf32> } }"""
    with pytest.raises(CheckpointError, match="custom_call of 'xla_python_cpu_callback', which has no place"):
        _check(text)
    with pytest.raises(CheckpointError, match=r"holds stablehlo[.]infeed"):
        _check(
            """module { func.func public @main(%t: !stablehlo.token) -> tensor<2xf32> {
          %0:2 = "stablehlo.infeed"(%t) : (!stablehlo.token) -> (tensor<2xf32>, !stablehlo.token)
          return %0#0 : tensor<2xf32> } }"""
        )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow")
def test_a_graph_that_reaches_files_or_python_is_refused(tmp_path):
    import tensorflow as tf

    _, shape, state = exported("plain")
    secret = tmp_path / "secret"
    secret.write_text("secret")

    @tf.function
    def inner(x):
        return tf.cast(tf.strings.length(tf.io.read_file(str(secret))), tf.float32) + x

    def hostile(kind):
        @tf.function(input_signature=[tf.TensorSpec((None, 1), tf.float32, name="x1")])
        def calls(x):
            if kind == "file":
                tf.io.write_file(str(tmp_path / "written"), "yes")
                return x
            if kind == "function":
                return inner(x)
            return tf.py_function(lambda y: y, [x], tf.float32)

        graph = calls.get_concrete_function().graph.as_graph_def()
        return State({"program": np.frombuffer(graph.SerializeToString(), np.uint8)}, state.facts)

    for kind, name in (("file", "WriteFile"), ("function", "ReadFile"), ("python", "EagerPyFunc")):
        with pytest.raises(CheckpointError, match=f"operator '{name}', which has no place"):
            open_predictor(hostile(kind), shape)
    assert not (tmp_path / "written").exists()

"""The Keras learner on the backend that KERAS_BACKEND names; `test_keras.py` runs this in a process for each."""

import json
import random
from dataclasses import replace
from functools import partial

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

from onstream import Keras, Torch
from onstream.contracts import Field, Label, Layout, State, TableSpec
from onstream.errors import CheckpointError, DivergedError, JobError
from onstream.learners.predictors import open_predictor, weights_of
from onstream.testing import LAWS, Promises, learner_laws
from tests.learners.batches import batch, drawn, layout, rows_of

BACKEND = keras.backend.backend()
KIND = {"torch": "torch", "jax": "stablehlo", "tensorflow": "graphdef"}[BACKEND]
EXPORTING = "the_exported_predicts_the_same"


# ----------------------------------------------------------------------------------------------- models


class Any(keras.Model):
    """Everything side by side, a hidden layer with dropout, and a head a label."""

    def __init__(self, labels):
        super().__init__()
        self.deep = layers.Dense(16, activation="relu")
        self.drop = layers.Dropout(0.2)
        self.heads = {label.name: layers.Dense(label.classes or 1) for label in labels}

    def call(self, x, training=False):
        row = self.drop(self.deep(x["row"]), training=training)
        return {name: head(row) for name, head in self.heads.items()}


def plain(units=1):
    return keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(units)])


def modal():
    return keras.Sequential(
        [layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(1)]
    )


def functional():
    """Two features by name, and what is made of several."""
    one, numbers, stack = (
        keras.Input((4,), name="id1"),
        keras.Input((1,), name="numbers"),
        keras.Input((3, 4), name="stack"),
    )
    row = layers.Concatenate()([one, numbers, layers.Flatten()(stack)])
    return keras.Model([one, numbers, stack], layers.Dense(1)(layers.Dense(5, activation="relu")(row)))


class Attention(keras.Model):
    """Lists: summed, averaged, and padded with attention over what is there; an image."""

    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 4)
        self.norm = layers.LayerNormalization()
        self.image = keras.Sequential([layers.Conv2D(3, 2), layers.MaxPooling2D(2), layers.Flatten()])
        self.last = layers.Dense(1)

    def call(self, x):
        query = ops.expand_dims(x["id0"], 1)
        seen = self.norm(
            self.attention(query, x["history"], attention_mask=ops.expand_dims(x["history.mask"], 1))
        )
        return self.last(ops.concatenate([seen[:, 0], x["tags"], x["words"], self.image(x["image"])], 1))


class Recurrent(keras.Model):
    def __init__(self):
        super().__init__()
        self.gru = layers.GRU(5)
        self.last = layers.Dense(1)

    def call(self, x):
        return self.last(self.gru(x["history"]))


def rich_layout():
    fields = (
        Field("id0", "id", table="t", dim=4),
        Field("tags", "list", table="t", dim=4, pooling="mean"),
        Field("words", "list", table="t", dim=4, pooling="sum"),
        Field("history", "list", table="t", dim=4, pooling="pad", length=3),
        Field("image", "tensor", shape=(6, 6, 1)),
    )
    return Layout(fields, (Label("y", "binary"),), (TableSpec("t", 4, {}, ("id0",)),))


def bound(model=plain, layout_=None, seed=0, **options):
    learner = Keras(model, **{"servable": False, **options})
    learner.bind(layout_ or layout(), seed)
    return learner


def learn(learner, steps=3, first=0, **options):
    for seed in range(first, first + steps):
        example = batch(seed=seed, **options)
        outcome = learner.learn(example, rows_of(example))
    return outcome


def bits(learner, but=()):
    return {n: a.tobytes() for n, a in learner.state().arrays.items() if not n.startswith(tuple(but) or "-")}


# ------------------------------------------------------------------------------------------------- laws


def make(name, layout_):
    return Keras(lambda: Any(layout_.labels), lr=0.01, servable=name == EXPORTING)


def law_tests(promises):
    return [
        (law.__name__, dict(learner_laws(partial(make, law.__name__), promises))[law.__name__])
        for law in LAWS
    ]


@pytest.mark.parametrize(
    ("name", "law"),
    law_tests(Promises(fields=("id", "list", "number"), tasks=("binary", "class"), several_labels=False)),
)
def test_it_keeps_the_law(name, law):
    law()


@pytest.mark.long
@pytest.mark.parametrize(("name", "law"), law_tests(Promises()))
def test_it_keeps_the_law_with_every_feature_and_label(name, law):
    law()


# ------------------------------------------------------------------------------------ learning as PyTorch


class Same(torch.nn.Module):
    """`plain`, in PyTorch."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.LazyLinear(8), torch.nn.LazyLinear(1)

    def forward(self, x):
        row = torch.cat([x[name].flatten(1) for name in x], 1)
        return self.two(torch.tanh(self.one(row)))


LISTS = (("s", "sum", 0), ("m", "mean", 0), ("p", "pad", 2))


@pytest.mark.parametrize(
    ("task", "loss"), [("binary", "bce"), ("real", "mse"), ("real", "mae"), ("real", "huber")]
)
def test_one_step_is_that_of_the_torch_learner(task, loss):
    shape = layout(lists=LISTS, labels=(Label("y", task),))
    lengths = {"s": [2, 0, 1, 3, 1, 0], "m": [1, 3, 0, 2, 2, 1], "p": [2] * 6}
    weights = np.array([1, 0, 2, 0.5, 1, 1], np.float32)
    labels = {"y": np.array([0, 1, np.nan, 1, 0, 1], np.float32) * (1 if task == "binary" else 3)}
    example = batch(lists=lengths, labels=labels, weights=weights)
    del example.offsets["p"]
    options = {"loss": loss, "optimizer": "sgd", "lr": 1.0, "loss_weights": {"y": 0.5}, "clip_norm": 0.2}
    ours, theirs = bound(plain, shape, **options), Torch(Same, servable=False, **options)
    theirs.bind(shape, 0)
    theirs.predict(example, rows_of(example))
    ours.predict(example, rows_of(example))
    state = ours.state()
    arrays = theirs.state().arrays
    pairs = {"one": "dense", "two": "dense_1"}
    for layer, own in pairs.items():
        arrays[f"network/{layer}.weight"] = state.arrays[f"network/sequential/{own}/kernel"].T.copy()
        arrays[f"network/{layer}.bias"] = state.arrays[f"network/sequential/{own}/bias"]
    theirs.load(State(arrays, theirs.state().facts))
    one, other = (learner.learn(example, rows_of(example)) for learner in (ours, theirs))
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    np.testing.assert_allclose(one.predictions["y"], other.predictions["y"], rtol=1e-5)
    np.testing.assert_allclose(one.row_grads["t"], other.row_grads["t"], rtol=1e-4, atol=1e-6)
    for layer, own in pairs.items():
        kernel = ours.state().arrays[f"network/sequential/{own}/kernel"]
        expected = theirs.state().arrays[f"network/{layer}.weight"].T
        np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(kernel, state.arrays[f"network/sequential/{own}/kernel"])


def test_gradients_of_rows_are_clipped_as_asked():
    example = batch()
    free, clipped = (bound(clip_row_norm=most).learn(example, rows_of(example)) for most in (None, 1e-3))
    norms = np.linalg.norm(clipped.row_grads["t"], axis=1)
    assert norms.max() <= 1.0001e-3 < np.linalg.norm(free.row_grads["t"], axis=1).max()
    assert clipped.row_grads["t"].dtype == np.float32


def test_what_layers_add_to_the_loss_counts_once_a_row():
    def regularized():
        return keras.Sequential([layers.Dense(1, kernel_regularizer=keras.regularizers.L2(10.0))])

    example = batch(rows=5)
    learner, bare = bound(regularized), bound(lambda: keras.Sequential([layers.Dense(1)]))
    learner.predict(example, rows_of(example))
    kernel = learner.state().arrays["network/sequential/dense/kernel"]
    losses = [each.learn(example, rows_of(example)).loss for each in (learner, bare)]
    assert losses[0] - losses[1] == pytest.approx(10.0 * np.square(kernel).sum(), rel=1e-4)


def test_a_loss_of_ones_own_gives_one_value_a_row():
    real = layout(labels=(Label("y", "real"),))
    example = batch(labels={"y": np.full(6, 3.0, np.float32)})
    cubic = bound(plain, real, loss=lambda outputs, labels: ops.abs(outputs - labels) ** 3)
    assert cubic.learn(example, rows_of(example)).loss > 5
    reduced = bound(plain, real, loss=lambda outputs, labels: ops.mean(outputs - labels))
    with pytest.raises(JobError, match="do not reduce it"):
        reduced.learn(example, rows_of(example))


# ----------------------------------------------------------------------------------- what models are given


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


# ----------------------------------------------------------------------------------------------- states


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


# ---------------------------------------------------------------------------------------------- exports

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
    for private in (kernel, b"keras_backend.py", b"/tests/", b"def call"):
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
    learner._export()
    assert learner.export() is None
    assert "cannot be exported" in learner.notes[0]


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
    from onstream.learners.keras_stablehlo import _check

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


# ---------------------------------------------------------------------------------------------- mistakes


def test_what_a_job_gets_wrong_is_said_in_words():
    example = batch()
    other = keras.Input((4,), name="user"), keras.Input((1,), name="numbers")
    asks = keras.Model(other, layers.Dense(1)(layers.Concatenate()(other)))
    several = layout(labels=(Label("a", "binary"), Label("b", "real")))
    cases = [
        (lambda: Keras(plain, optimizer="sgdm"), "optimizer must be one of"),
        (lambda: Keras(plain, lr=-1), "lr must be a positive number"),
        (lambda: Keras("model"), "must be a keras.Model or make one"),
        (lambda: bound(loss="mse"), "loss must be one of"),
        (lambda: bound(loss={"z": "bce"}), r"names \['z'\]"),
        (lambda: bound(lambda: 3), "must give a keras.Model"),
        (lambda: learn(bound(optimizer=lambda: 3)), "must give a Keras optimizer"),
        (lambda: learn(bound(lambda: plain(2))), r"must be \(rows\), got"),
        (lambda: learn(bound(asks)), r"of which \['user'\] are not among"),
        (lambda: bound(plain, several).predict(example, rows_of(example)), "a dict of tensors by label name"),
        (
            lambda: bound(lambda: Any(several.labels[:1]), several).predict(example, rows_of(example)),
            "also has the labels",
        ),
    ]
    for wrong, text in cases:
        with pytest.raises(JobError, match=text):
            wrong()


@pytest.mark.skipif(BACKEND != "jax", reason="compiles for each number of rows")
def test_batches_of_many_sizes_compile_few_shapes_unless_rows_see_each_other():
    counts = {}
    for name, model, options in (
        ("plain", plain, {}),
        ("modal", modal, {}),
        ("own loss", plain, {"loss": lambda outputs, labels: (outputs - labels) ** 2}),
    ):
        learner = bound(model, **options)
        for rows in range(9, 17):
            example = batch(rows=rows)
            learner.learn(example, rows_of(example))
        counts[name] = learner._step._learn._cache_size()
    assert counts == {"plain": 1, "modal": 8, "own loss": 8}


def test_a_bound_learner_can_be_bound_again():
    # `onstream check` and `onstream train` in one process do.
    learner = bound(optimizer=keras.optimizers.Adam(0.01))
    learn(learner)
    learner.bind(layout(), 0)
    learn(learner)
    assert replace(learner, lr=0.5).lr == 0.5

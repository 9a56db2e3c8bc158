"""What the Keras learner learns: as PyTorch does, with losses and clipping as asked."""

import keras
import numpy as np
import pytest
import torch
from keras import layers, ops

from onstream import Torch
from onstream.contracts import Label, State
from onstream.errors import JobError
from tests.learners.batches import batch, layout, rows_of
from tests.learners.keras_backend.models import BACKEND, bound, modal, plain


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

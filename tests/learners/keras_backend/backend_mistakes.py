"""What a job gets wrong with a model of Keras is said in words."""

import keras
import pytest
from keras import layers

from onstream import Keras
from onstream.contracts import Label
from onstream.errors import JobError
from tests.learners.batches import batch, layout, rows_of
from tests.learners.keras_backend.models import Any, bound, learn, plain


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

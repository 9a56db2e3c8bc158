"""Models of Keras, as small as a thing to be learned allows, and learners of them."""

import keras
from keras import layers, ops

from onstream import Keras
from onstream.contracts import Field, Label, Layout, TableSpec
from tests.learners.batches import batch, layout, rows_of

BACKEND = keras.backend.backend()


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

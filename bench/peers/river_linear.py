"""River's logistic regression, row by row in Python."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from river import compose, linear_model, optim, preprocessing

from bench import data


@dataclass(frozen=True)
class Result:
    """The seconds of predicting and learning, and the predictions, each made before learning from its row."""

    seconds: float
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.labels)

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds

    @property
    def loss(self) -> float:
        """Progressive log loss, nats a row."""
        chance = np.clip(self.predictions, 1e-7, 1 - 1e-7)
        return float(-np.mean(np.where(self.labels == 1, np.log(chance), np.log(1 - chance))))

    @property
    def normalised_entropy(self) -> float:
        """Log loss divided by that of always predicting the mean label."""
        mean = self.labels.mean()
        return self.loss / float(-(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)))

    @property
    def auc(self) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(self.labels, self.predictions))


def criteo(table: pa.Table, *, rate: float = 0.1) -> Result:
    """Learn once from examples in the Criteo layout. Each value is a word, in a dictionary made beforehand."""
    words = [[f"{name}={value}" for value in table[name].to_pylist()] for name in table.column_names[1:]]
    rows = [dict.fromkeys(row, 1) for row in zip(*words, strict=True)]
    return learn(logistic(rate), rows, table["label"].to_numpy())


def flights(table: pa.Table, *, rate: float = 0.1) -> Result:
    """Learn once from `bench.data.flights()`: ids as words, numbers scaled by running mean and variance.

    A number that is missing is missing from the row's dictionary, so it neither votes nor counts.
    """
    ids = [[f"{name}={value}" for value in table[name].to_pylist()] for name in data.FLIGHT_IDS]
    numbers = [table[name].to_pylist() for name in data.FLIGHT_NUMBERS]
    rows = [
        dict.fromkeys(words, 1)
        | {name: float(x) for name, x in zip(data.FLIGHT_NUMBERS, values, strict=True) if x is not None}
        for words, values in zip(zip(*ids, strict=True), zip(*numbers, strict=True), strict=True)
    ]
    # Words carry the integer 1 and numbers are floats, so the type tells them apart.
    scaled = compose.SelectType(float) | preprocessing.StandardScaler()
    model = (scaled + compose.SelectType(int)) | logistic(rate)
    return learn(model, rows, table["late"].to_numpy())


def logistic(rate: float) -> linear_model.LogisticRegression:
    # Adagrad, as in the other linear models here; River's default, plain gradient descent, ends with a higher loss.
    return linear_model.LogisticRegression(optim.AdaGrad(rate), intercept_lr=0.01)


def learn(model, rows: Iterable[dict], labels: np.ndarray) -> Result:
    predictions = np.empty(len(labels))
    truths = [bool(label) for label in labels]
    begin = time.perf_counter()
    for i, (row, truth) in enumerate(zip(rows, truths, strict=True)):
        predictions[i] = model.predict_proba_one(row).get(True, 0.5)
        model.learn_one(row, truth)
    return Result(time.perf_counter() - begin, labels, predictions)

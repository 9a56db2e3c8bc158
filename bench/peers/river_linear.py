"""River's logistic regression, row by row in Python."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from river import linear_model, optim
from river.base import Classifier
from sklearn.metrics import roc_auc_score


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
    def normalized_entropy(self) -> float:
        """Log loss divided by that of always predicting the mean label."""
        mean = self.labels.mean()
        return self.loss / float(-(mean * np.log(mean) + (1 - mean) * np.log(1 - mean)))

    @property
    def auc(self) -> float:
        """Area under the ROC curve of all predictions, exact."""
        return float(roc_auc_score(self.labels, self.predictions))


def criteo(table: pa.Table, *, rate: float = 0.01) -> Result:
    """Learn once from examples in the Criteo layout, with River's default optimizer and rate.

    Each value is a word, in a dictionary made beforehand: the time is that of predicting and learning alone.
    """
    words = [[f"{name}={value}" for value in table[name].to_pylist()] for name in table.column_names[1:]]
    rows = [dict.fromkeys(row, 1) for row in zip(*words, strict=True)]
    model = linear_model.LogisticRegression(optim.SGD(rate))
    return learn(model, rows, table["label"].to_numpy())


def learn(model: Classifier, rows: Iterable[dict], labels: np.ndarray) -> Result:
    """Predict each row, then learn from it."""
    predictions = np.empty(len(labels))
    truths = [bool(label) for label in labels]
    begin = time.perf_counter()
    for i, (row, truth) in enumerate(zip(rows, truths, strict=True)):
        predictions[i] = model.predict_proba_one(row).get(True, 0.5)
        model.learn_one(row, truth)
    return Result(time.perf_counter() - begin, labels, predictions)

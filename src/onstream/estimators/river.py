"""What onstream learns, as estimators of river."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from onstream.contracts import Learner
from onstream.errors import JobError, MissingExtraError
from onstream.estimators.examples import Floats, Model
from onstream.estimators.parts import PartsModel
from onstream.estimators.sparse import SparseModel
from onstream.features import Declaration, Label
from onstream.job import Job

try:
    from river import base
    from river.utils import dataframe
except ImportError as error:
    raise MissingExtraError("river estimators need river: pip install 'onstream[river]'") from error

__all__ = ["RiverClassifier", "RiverRegressor"]


class _Learning:
    """What classifier and regressor have in common: the model, made when it is first asked."""

    def __init__(
        self,
        features: Sequence[Declaration] | None = None,
        learner: Learner | None = None,
        factors: int = 4,
        lr: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.features = features
        self.learner = learner
        self.factors = factors
        self.lr = lr
        self.seed = seed
        self._model: Model | None = None

    @classmethod
    def of_job(cls, job: Job, **params: Any) -> Self:
        """Return an estimator with the features, the learner and the seed of a job."""
        features = tuple(d for d in job.features if not isinstance(d, Label))
        return cls(**{"features": features, "learner": job.learner, "seed": job.seed, **params})

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {}
        yield {"factors": 0}

    def _unit_test_skips(self) -> set[str]:
        # One step a batch is not one step a row; river's own linear models skip it for the same reason.
        return {"check_learn_many_matches_learn_one"}

    def _made(self, classes: int) -> Model:
        if self._model is None:
            if (self.features is None) != (self.learner is None):
                raise JobError(
                    "features and learner go together: give both, or neither for the default model"
                )
            if self.features is not None and self.learner is not None:
                self._model = PartsModel(self.features, self.learner, classes=classes, seed=self.seed)
            else:
                factors: object = self.factors
                if not isinstance(factors, int) or factors < 0:
                    raise JobError(f"factors must be a whole number of at least 0, got {factors!r}")
                self._model = SparseModel(
                    classify=classes > 0, factors=self.factors, lr=self.lr, seed=self.seed
                )
        return self._model


class RiverClassifier(_Learning, base.MiniBatchClassifier):
    """A classifier of river that learns as onstream does: embeddings of ids, made as they come.

    Parameters
    ----------
    features
        What the features mean, as for a `Job`: `Id`, `IdList`, `Number`, `Tensor`; goes with `learner`. By default
        every number and every other value that comes is a feature of a factorization machine.
    learner
        What learns, such as ``Torch(Net)``.
    classes
        The labels, of which a learner must know the number before. The default model learns of them as they come.
    factors
        Width of the interactions of the default model; 0 is a linear one.
    lr
        Learning rate of the default model.
    seed
        From which all that is drawn follows.

    Notes
    -----
    `learn_many` takes one step on all its rows; `learn_one` on one. A feature that a row does not have is none of it,
    or a null for declared features. A row's weight `w` multiplies its loss.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> from onstream.estimators import RiverClassifier
    >>> evaluate.progressive_val_score(datasets.Phishing(), RiverClassifier(), metrics.Accuracy())
    Accuracy: 89.91%

    """

    def __init__(
        self,
        features: Sequence[Declaration] | None = None,
        learner: Learner | None = None,
        classes: Sequence[Any] = (False, True),
        factors: int = 4,
        lr: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(features, learner, factors, lr, seed)
        self.classes = classes
        self._seen: list[Any] = []

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict[Any, Any], y: Any, w: float = 1.0) -> None:
        """Learn one row."""
        self._learn([x], [y], None if w == 1.0 else np.array([w]))

    def predict_proba_one(self, x: dict[Any, Any], **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each label."""
        if not self._labels:
            return {}
        found = self._made(len(self._labels)).predict([x])[0].tolist()
        return dict(zip(self._labels, found, strict=True))

    def learn_many(self, X: Any, y: Any, w: Any = None) -> None:
        """Learn the rows of a frame, in one step."""
        weights = None if w is None else _column(w, len(X))
        self._learn(_rows(X), dataframe.into_series(y).to_list(), weights)

    def predict_proba_many(self, X: Any) -> Any:
        """Return the probability of each label, as a frame of the kind that was given."""
        frame = dataframe.into_frame(X)
        found = self._many(X)
        columns = {label: found[:, at] for at, label in enumerate(self._labels)}
        return dataframe.to_native_frame(columns, like=frame)

    def predict_many(self, X: Any) -> Any:
        """Return the likeliest label of each row, as a series of the kind of the frame that was given."""
        found = self._many(X)
        labels = [self._labels[at] for at in found.argmax(axis=1)] if self._labels else [None] * len(found)
        return dataframe.to_native_series(labels, name=None, like=dataframe.into_frame(X))

    @property
    def _labels(self) -> list[Any]:
        return self._seen if self.learner is None else list(self.classes)

    def _many(self, X: Any) -> Floats:
        rows = _rows(X)
        if not self._labels:
            return np.empty((len(rows), 0))
        return self._made(len(self._labels)).predict(rows)

    def _learn(self, rows: list[dict[Any, Any]], labels: list[Any], weights: Floats | None) -> None:
        if self.learner is None:
            self._seen += [label for label in dict.fromkeys(labels) if label not in self._seen]
        elif unknown := [label for label in labels if label not in self._labels]:
            raise JobError(f"label {unknown[0]!r} is none of the classes {self._labels}; name it there")
        model = self._made(len(self._labels))
        model.grow(len(self._labels))
        model.learn(rows, np.array([self._labels.index(label) for label in labels], np.float64), weights)


class RiverRegressor(_Learning, base.MiniBatchRegressor):
    """A regressor of river that learns as onstream does: embeddings of ids, made as they come.

    Parameters
    ----------
    features
        What the features mean, as for a `Job`: `Id`, `IdList`, `Number`, `Tensor`; goes with `learner`. By default
        every number and every other value that comes is a feature of a factorization machine.
    learner
        What learns, such as ``Torch(Net)``.
    factors
        Width of the interactions of the default model; 0 is a linear one.
    lr
        Learning rate of the default model.
    seed
        From which all that is drawn follows.

    Notes
    -----
    As `RiverClassifier`. The default model standardises what it predicts by its mean and deviation so far.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics
    >>> from onstream.estimators import RiverRegressor
    >>> evaluate.progressive_val_score(datasets.TrumpApproval(), RiverRegressor(), metrics.MAE())
    MAE: 0.460497

    """

    def learn_one(self, x: dict[Any, Any], y: float, w: float = 1.0) -> None:
        """Learn one row."""
        self._made(0).learn([x], np.array([y], np.float64), None if w == 1.0 else np.array([w]))

    def predict_one(self, x: dict[Any, Any]) -> float:
        """Return the value that is expected of a row."""
        return float(self._made(0).predict([x])[0])

    def learn_many(self, X: Any, y: Any, w: Any = None) -> None:
        """Learn the rows of a frame, in one step."""
        weights = None if w is None else _column(w, len(X))
        self._made(0).learn(_rows(X), _column(y, len(X)), weights)

    def predict_many(self, X: Any) -> Any:
        """Return the value that is expected of each row, as a series of the kind of the frame that was given."""
        found = self._made(0).predict(_rows(X))
        return dataframe.to_native_series(found, name=None, like=dataframe.into_frame(X))


def _rows(X: Any) -> list[dict[Any, Any]]:
    """Return the rows of a frame of pandas, polars, pyarrow or any other that narwhals knows."""
    return list(dataframe.into_frame(X).rows(named=True))


def _column(values: Any, num_rows: int) -> Floats:
    if isinstance(values, int | float):
        return np.full(num_rows, float(values))
    return np.asarray(dataframe.into_series(values).to_numpy(), np.float64)

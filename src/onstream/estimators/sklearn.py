"""What onstream learns, as estimators of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onstream.contracts import Learner
from onstream.errors import JobError, MissingExtraError
from onstream.estimators.examples import Examples, Floats, Matrix, Model
from onstream.estimators.parts import PartsModel
from onstream.estimators.sparse import SparseModel
from onstream.features import Declaration, Label
from onstream.job import Job

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets, unique_labels
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError(
        "scikit-learn estimators need scikit-learn: pip install 'onstream[sklearn]'"
    ) from error

__all__ = ["SklearnClassifier", "SklearnRegressor"]


class _Learning(BaseEstimator):
    """What classifier and regressor have in common: examples, steps, and passes over them."""

    def __init__(
        self,
        features: Sequence[Declaration] | None = None,
        learner: Learner | None = None,
        factors: int = 4,
        lr: float = 0.1,
        batch_size: int = 32,
        epochs: int = 10,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.features = features
        self.learner = learner
        self.factors = factors
        self.lr = lr
        self.batch_size = batch_size
        self.epochs = epochs
        self.random_state = random_state

    @classmethod
    def of_job(cls, job: Job, **params: Any) -> Self:
        """Return an estimator with the features, the learner, the batch size and the seed of a job."""
        features = tuple(d for d in job.features if not isinstance(d, Label))
        own = {"features": features, "learner": job.learner}
        return cls(**{**own, "batch_size": job.batch_size, "random_state": job.seed, **params})

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_model")

    def _make(self, classes: int) -> Model:
        if (self.features is None) != (self.learner is None):
            raise JobError("features and learner go together: give both, or neither for the default model")
        for name, least in (("factors", 0), ("batch_size", 1), ("epochs", 1)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        drawn: Any = self.random_state
        if not isinstance(drawn, Integral) or drawn < 0:
            drawn = check_random_state(drawn).randint(1 << 31)
        self._seed = int(drawn)
        if self.features is not None and self.learner is not None:
            return PartsModel(self.features, self.learner, classes=classes, seed=self._seed)
        return SparseModel(classify=classes > 0, factors=int(self.factors), lr=self.lr, seed=self._seed)

    def _examples(self, X: Any, *, reset: bool) -> Examples:
        """Return examples of an array or a frame, checked as scikit-learn does."""
        if self.features is not None:
            # Declared features may be of any type; they are read as a job reads them.
            validate_data(self, X, reset=reset, skip_check_array=True)
            named = getattr(self, "feature_names_in_", None)
            names = _names(self.n_features_in_) if named is None else [str(name) for name in named]
            columns = [np.asarray(X[name]) for name in named] if named is not None else np.asarray(X).T
            rows = zip(*(column.tolist() for column in columns), strict=True)
            return [dict(zip(names, row, strict=True)) for row in rows]
        values = validate_data(self, X, reset=reset, dtype=np.float64)
        named = getattr(self, "feature_names_in_", None)
        return Matrix(tuple(_names(values.shape[1]) if named is None else map(str, named)), values)

    def _step(
        self, examples: Examples, targets: Floats, weights: Floats | None, order: npt.NDArray[np.intp]
    ) -> None:
        """Learn rows in this order, `batch_size` of them a step."""
        for begin in range(0, len(order), self.batch_size):
            at = order[begin : begin + self.batch_size]
            part = examples.part(at) if isinstance(examples, Matrix) else [examples[i] for i in at]
            self._model.learn(part, targets[at], None if weights is None else weights[at])

    def _fit(self, examples: Examples, targets: Floats, weights: Floats | None) -> None:
        """Learn rows several times over, in another order each time."""
        draw = np.random.default_rng(self._seed)
        for _ in range(self.epochs):
            self._step(examples, targets, weights, draw.permutation(len(targets)))

    def _weights(self, sample_weight: Any, X: Any) -> Floats | None:
        if sample_weight is None:
            return None
        weights: Floats = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return weights


class SklearnClassifier(ClassifierMixin, _Learning):
    """A classifier of scikit-learn that learns as onstream does, by `partial_fit` as the data comes.

    Parameters
    ----------
    features : sequence of declarations, optional
        What the columns mean, as for a `Job`: `Id`, `IdList`, `Number`, `Tensor`; goes with `learner`. Columns are
        those of a data frame, or "x0", "x1" and on. By default every column is a number of a factorization machine.
    learner : Learner, optional
        What learns, such as ``Torch(Net)``.
    factors : int
        Width of the interactions of the default model; 0 is a linear one.
    lr : float
        Learning rate of the default model.
    batch_size : int
        Rows of one step.
    epochs : int
        How often `fit` goes over its rows. `partial_fit` does once, in their order.
    random_state : int, RandomState or None
        From which all that is drawn follows; None leaves it to chance.

    Attributes
    ----------
    classes_ : ndarray
        The labels.
    n_features_in_ : int
        Columns seen.
    feature_names_in_ : ndarray of str
        Their names, if they came with any.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from onstream.estimators import SklearnClassifier
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = SklearnClassifier().partial_fit(X[:400], y[:400], classes=[0, 1])
    >>> bool(model.score(X[400:], y[400:]) > 0.9)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Begin anew and go over the rows `epochs` times."""
        examples, y = self._checked(X, y, reset=True)
        self._begin(unique_labels(y))
        self._fit(examples, self._numbers(y), self._weights(sample_weight, X))
        return self

    def partial_fit(
        self,
        X: Any,
        y: Any,
        classes: Any = None,
        sample_weight: Any = None,
    ) -> Self:
        """Go on with these rows, once, in their order.

        Parameters
        ----------
        X : array or frame, shape (rows, columns)
        y : array, shape (rows,)
        classes : array, optional
            All labels that will come; needed at the first call.
        sample_weight : array, shape (rows,), optional
            Multiplies the loss of each row.
        """
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if not first and classes is not None and not np.array_equal(self.classes_, unique_labels(classes)):
            raise ValueError(f"classes={classes!r} is not what it was at the first call: {self.classes_!r}")
        examples, y = self._checked(X, y, reset=first)
        if first:
            self._begin(unique_labels(classes))
        if unknown := set(np.unique(y).tolist()) - set(self.classes_.tolist()):
            raise ValueError(
                f"y has the labels {sorted(unknown, key=str)}, which are none of {self.classes_!r}"
            )
        self._step(examples, self._numbers(y), self._weights(sample_weight, X), np.arange(len(y)))
        return self

    def predict_proba(self, X: Any) -> Floats:
        """Return the probability of each of `classes_`, (rows, classes)."""
        check_is_fitted(self)
        return self._model.predict(self._examples(X, reset=False))

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """Return the likeliest label of each row."""
        likeliest = self.predict_proba(X).argmax(axis=1)
        found: npt.NDArray[Any] = self.classes_[likeliest]
        return found

    def _begin(self, classes: npt.NDArray[Any]) -> None:
        self.classes_ = classes
        self._model = self._make(len(classes))
        self._model.grow(len(classes))

    def _numbers(self, y: npt.NDArray[Any]) -> Floats:
        return np.searchsorted(self.classes_, y).astype(np.float64)

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Examples, npt.NDArray[Any]]:
        if self.features is None:
            _, y = validate_data(self, X, y, reset=reset, dtype=np.float64)
        check_classification_targets(y)
        return self._examples(X, reset=reset), np.asarray(y)


class SklearnRegressor(RegressorMixin, _Learning):
    """A regressor of scikit-learn that learns as onstream does, by `partial_fit` as the data comes.

    Parameters
    ----------
    features : sequence of declarations, optional
        What the columns mean, as for a `Job`: `Id`, `IdList`, `Number`, `Tensor`; goes with `learner`. Columns are
        those of a data frame, or "x0", "x1" and on. By default every column is a number of a factorization machine.
    learner : Learner, optional
        What learns, such as ``Torch(Net)``.
    factors : int
        Width of the interactions of the default model; 0 is a linear one.
    lr : float
        Learning rate of the default model, which standardises what it predicts by its mean and deviation so far.
    batch_size : int
        Rows of one step.
    epochs : int
        How often `fit` goes over its rows. `partial_fit` does once, in their order.
    random_state : int, RandomState or None
        From which all that is drawn follows; None leaves it to chance.

    Attributes
    ----------
    n_features_in_ : int
        Columns seen.
    feature_names_in_ : ndarray of str
        Their names, if they came with any.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from onstream.estimators import SklearnRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(SklearnRegressor().fit(X[:300], y[:300]).score(X[300:], y[300:]) > 0.4)
    True
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Begin anew and go over the rows `epochs` times."""
        examples, y = self._checked(X, y, reset=True)
        self._model = self._make(0)
        self._fit(examples, y, self._weights(sample_weight, X))
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go on with these rows, once, in their order; weights multiply the loss of each."""
        first = not hasattr(self, "_model")
        examples, y = self._checked(X, y, reset=first)
        if first:
            self._model = self._make(0)
        self._step(examples, y, self._weights(sample_weight, X), np.arange(len(y)))
        return self

    def predict(self, X: Any) -> Floats:
        """Return the value that is expected of each row."""
        check_is_fitted(self)
        return self._model.predict(self._examples(X, reset=False))

    def _checked(self, X: Any, y: Any, *, reset: bool) -> tuple[Examples, Floats]:
        if self.features is None:
            _, y = validate_data(self, X, y, reset=reset, dtype=np.float64, y_numeric=True)
        return self._examples(X, reset=reset), np.asarray(y, np.float64)


def _names(count: int) -> list[str]:
    return [f"x{at}" for at in range(count)]

"""The default model of estimators: a factorization machine over whatever features come, its rows in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onstream.contracts import Delta, Keys, Rows
from onstream.core import hash_value, salt
from onstream.errors import RequestError
from onstream.estimators.examples import Examples, Floats, Matrix
from onstream.features.moments import Moments
from onstream.tables import Adagrad, Normal, Table

__all__ = ["SparseModel"]

# A standardised value counts for at most this much, and so does the error of one row: early on, the deviation of a
# few examples can be tiny.
_MOST = 10.0
_SPREAD = 0.01
_BIAS = hash_value("bias", salt("onstream.estimators"))


class _Sparse(NamedTuple):
    """Rows as runs of keys: their values, and where the run of each row begins. The bias of a row comes first."""

    keys: Keys
    values: Rows
    begins: npt.NDArray[np.int64]


class SparseModel:
    r"""A factorization machine that makes its features as they come.

    .. math:: s(x) = w_0 + \sum_i w_i x_i + \sum_{i<j} \langle v_i, v_j \rangle x_i x_j

    with a row :math:`(w_i, v_i)` in an embedding table for every number by name, and for every other value by name and
    value. Classes have rows of their own, and softmax makes their scores probabilities.

    Parameters
    ----------
    classify : bool
    factors : int
        Width of :math:`v`; 0 is a linear model.
    lr : float
        Of Adagrad.
    seed : int

    Notes
    -----
    Numbers are standardised by their mean and deviation so far, and shown as at most 10 from 0; so is the target of a
    regression. A value that is None or NaN is as if it were not there. A list is all of its elements.

    References
    ----------
    S. Rendle (2010), Factorization Machines, ICDM, equations 1 and 5.
    """

    def __init__(self, *, classify: bool, factors: int, lr: float, seed: int) -> None:
        self._classify = classify
        self._factors = factors
        self._lr = lr
        self._seed = seed
        self._make()
        self._classes: list[int] = []
        # By name: the key of a number and its place among the moments, or the salt of other values.
        self._numbers: dict[Any, tuple[int, int]] = {}
        self._moments = Moments([])
        self._target = Moments(["target"])

    def grow(self, num_classes: int) -> None:
        """Make room for so many classes."""
        for at in range(len(self._classes), num_classes):
            self._classes.append(hash_value(at, salt("onstream.estimators.class")))

    def predict(self, examples: Examples) -> Floats:
        """Return class probabilities, (rows, classes), or values, (rows,)."""
        sparse = self._encode(examples)
        scores = np.stack(
            [self._forward(sparse, keys, learn=False)[0] for keys in self._keys(sparse)], axis=1
        )
        if self._classify:
            return _softmax(scores)
        mean, deviation = self._scale()
        return mean + deviation * scores[:, 0]

    def learn(self, examples: Examples, targets: Floats, weights: Floats | None) -> None:
        """Take one step on these rows."""
        self._meet(examples)
        sparse = self._encode(examples)
        forward = [self._forward(sparse, keys, learn=True) for keys in self._keys(sparse)]
        scores = np.stack([scores for scores, _, _ in forward], axis=1)
        if self._classify:
            slopes = _softmax(scores)
            slopes[np.arange(len(targets)), targets.astype(np.intp)] -= 1.0
        else:
            self._target.add(targets[:, None])
            mean, deviation = self._scale()
            slopes = np.clip(scores - ((targets - mean) / deviation)[:, None], -_MOST, _MOST)
        if weights is not None:
            slopes *= weights[:, None]
        grads = [
            self._backward(sparse, slopes[:, at], rows, sums) for at, (_, rows, sums) in enumerate(forward)
        ]
        self._table.push(np.concatenate(self._keys(sparse)), np.concatenate(grads))

    # ------------------------------------------------------------------------------------ the machine

    def _keys(self, sparse: _Sparse) -> list[Keys]:
        """Return the keys of the rows of each output."""
        if not self._classify:
            return [sparse.keys]
        return [sparse.keys ^ np.uint64(own) for own in self._classes]

    def _forward(self, sparse: _Sparse, keys: Keys, *, learn: bool) -> tuple[Floats, Rows, Rows]:
        """Return scores, (rows,), what the keys' rows are, and the sums of factors times values of each row."""
        rows = self._table.pull(keys, learn=learn)
        scores = np.add.reduceat(rows[:, 0] * sparse.values, sparse.begins).astype(np.float64)
        products = rows[:, 1:] * sparse.values[:, None]
        # The bias stands alone.
        products[sparse.begins] = 0.0
        sums = np.add.reduceat(products, sparse.begins)
        squares = np.add.reduceat(products * products, sparse.begins)
        scores += 0.5 * (sums * sums - squares).sum(axis=1)
        return scores, rows, sums

    def _backward(self, sparse: _Sparse, slopes: Floats, rows: Rows, sums: Rows) -> Rows:
        """Return the gradient by every row of the table."""
        lengths = np.diff(np.append(sparse.begins, len(sparse.keys)))
        own = np.repeat(slopes, lengths).astype(np.float32) * sparse.values
        grads = np.empty_like(rows)
        grads[:, 0] = own
        grads[:, 1:] = own[:, None] * (
            np.repeat(sums, lengths, axis=0) - rows[:, 1:] * sparse.values[:, None]
        )
        grads[sparse.begins, 1:] = 0.0
        return grads

    def _scale(self) -> tuple[float, float]:
        """Return mean and deviation of the targets so far."""
        count, mean, squares = (float(array[0]) for array in self._target.arrays().values())
        return mean, math.sqrt(squares / max(count, 1.0)) or 1.0

    # ------------------------------------------------------------------------------------ examples

    def _meet(self, examples: Examples) -> None:
        """Give the numbers that are new a key, and take in all numbers."""
        if isinstance(examples, Matrix):
            names: Any = examples.names
        else:
            names = {name for x in examples for name, value in _ordered(x) if _is_number(value)}
        fresh = sorted((name for name in names if name not in self._numbers), key=str)
        for name in fresh:
            key = hash_value(str(name), salt("onstream.estimators.number"))
            self._numbers[name] = key, len(self._numbers)
        if fresh:
            before = self._moments
            self._moments = Moments([str(name) for name in self._numbers])
            self._moments.load(before.names, before.arrays())
        values = np.full((len(examples), len(self._numbers)), np.nan)
        if isinstance(examples, Matrix):
            values[:, [self._numbers[name][1] for name in examples.names]] = examples.values
        else:
            for at, x in enumerate(examples):
                for name, value in x.items():
                    if _is_number(value):
                        values[at, self._numbers[name][1]] = value
        self._moments.add(values)

    def _encode(self, examples: Examples) -> _Sparse:
        """Return the keys and values of rows. A number that was never learned is left out: it has no scale."""
        if isinstance(examples, Matrix):
            return self._encode_matrix(examples)
        keys: list[int] = []
        values: list[float] = []
        begins = []
        numbers: list[tuple[int, int]] = []
        for x in examples:
            begins.append(len(keys))
            keys.append(_BIAS)
            values.append(1.0)
            for name, value in _ordered(x):
                if _is_number(value):
                    known = self._numbers.get(name)
                    if known is not None:
                        numbers.append((len(keys), known[1]))
                        keys.append(known[0])
                        values.append(float(value))
                else:
                    for key in _category_keys(name, value):
                        keys.append(key)
                        values.append(1.0)
        shown = np.array(values)
        if numbers:
            where, which = np.array(numbers).T
            shown[where] = self._standardize(shown[where], which)
        return _Sparse(np.array(keys, np.uint64), shown.astype(np.float32), np.array(begins, np.int64))

    def _encode_matrix(self, examples: Matrix) -> _Sparse:
        known = [at for at, name in enumerate(examples.names) if name in self._numbers]
        found = [self._numbers[examples.names[at]] for at in known]
        num_rows, width = len(examples), len(known) + 1
        values = np.ones((num_rows, width))
        which = np.array([place for _, place in found], np.intp)
        values[:, 1:] = self._standardize(examples.values[:, known].astype(np.float64), which)
        # A value that is not there is as one that is 0.
        values[np.isnan(values)] = 0.0
        keys = np.tile(np.array([_BIAS, *(key for key, _ in found)], np.uint64), num_rows)
        return _Sparse(keys, values.ravel().astype(np.float32), np.arange(num_rows) * width)

    def _standardize(self, values: Floats, which: npt.NDArray[np.intp]) -> Floats:
        count, means, squares = (array[which] for array in self._moments.arrays().values())
        deviations = np.sqrt(squares / np.maximum(count, 1.0))
        deviations[deviations == 0.0] = 1.0
        with np.errstate(over="ignore"):
            shown: Floats = np.clip((values - means) / deviations, -_MOST, _MOST)
        return shown

    # ------------------------------------------------------------------------------------ copies

    def _make(self) -> None:
        self._table = Table(
            1 + self._factors, optimizer=Adagrad(lr=self._lr), initial=Normal(0.0, _SPREAD), seed=self._seed
        )

    def __getstate__(self) -> dict[str, Any]:
        delta = self._table.rows()
        rows = {item.name: getattr(delta, item.name) for item in fields(delta)}
        return {**vars(self), "_table": rows}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._make()
        self._table.load(Delta(**state["_table"]))


def _ordered(x: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the features of a row in one order, so that sums do not depend on how the mapping was made."""
    return sorted(
        ((name, value) for name, value in x.items() if _is_there(value)), key=lambda item: str(item[0])
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | np.integer | np.floating)
        and not isinstance(value, bool)
        and _is_there(value)
    )


def _is_there(value: Any) -> bool:
    """Tell whether there is a value; infinities are none that one could learn from."""
    return value is not None and not (isinstance(value, float | np.floating) and not math.isfinite(value))


def _category_keys(name: Any, value: Any) -> Iterator[int]:
    """Yield the keys of a value that is no number: one, or those of its elements."""
    own = salt(f"onstream.estimators.value {name}")
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        elements = [str(element) for element in value]
    elif isinstance(value, str | bool | bytes | np.bool_ | np.str_):
        elements = [str(value)]
    else:
        raise RequestError(
            f"feature {name!r}: a value is a number, a text, a boolean or a list of these, got {value!r:.200}"
        )
    for element in sorted(elements) if isinstance(value, set | frozenset) else elements:
        yield hash_value(element, own)


def _softmax(scores: Floats) -> Floats:
    if not scores.shape[1]:
        return scores
    powers: Floats = np.exp(scores - scores.max(axis=1, keepdims=True))
    powers /= powers.sum(axis=1, keepdims=True)
    return powers

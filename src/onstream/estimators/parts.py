"""The features and the learner of a job as the model of an estimator."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.contracts import Batch, Delta, Learner, State
from onstream.errors import JobError, RequestError
from onstream.estimators.examples import Examples, Floats, Matrix
from onstream.features import Declaration, Features, Label
from onstream.streams import Place
from onstream.tables import Adagrad, TableGroup, Uniform

__all__ = ["PartsModel"]

_TARGET = "target"


class PartsModel:
    """A network over declared features: what a job is made of, fed by calls instead of a stream.

    Parameters
    ----------
    declared : sequence of declarations
        The features of a job; its labels are left out.
    learner : Learner
        Of which a copy is bound, so that it may be a parameter of several models.
    classes : int
        0 for values.
    seed : int

    Raises
    ------
    JobError
        If features and learner do not go together.

    Notes
    -----
    A feature that a row does not have is a null. Networks draw from PyTorch's global generator, as in a job.
    """

    def __init__(self, declared: Sequence[Declaration], learner: Learner, *, classes: int, seed: int) -> None:
        if not isinstance(learner, Learner):
            raise JobError(f"learner must be a learner such as Torch(Net), got {learner!r}")
        self._declared = tuple(d for d in declared if not isinstance(d, Label))
        self._prototype = learner
        self._num_classes = classes
        self._seed = seed
        self._now = 0
        self._make()

    def grow(self, num_classes: int) -> None:
        """Refuse more classes than the network was made for."""
        if num_classes > max(self._num_classes, 2):
            raise JobError(
                f"a network has an output for each class, so they are to be known before: give {num_classes} "
                f"classes, as in classes=('a', 'b', 'c')"
            )

    def predict(self, examples: Examples) -> Floats:
        """Return class probabilities, (rows, classes), or values, (rows,)."""
        batch = self._encode(examples, None)
        rows = self._tables.pull(batch.keys, now=self._now, learn=False)
        found = self._learner.predict(batch, rows)[_TARGET].astype(np.float64)
        if self._num_classes != 2:
            return found / found.sum(axis=1, keepdims=True) if self._num_classes else found
        return np.stack([1.0 - found, found], axis=1)

    def learn(self, examples: Examples, targets: Floats, weights: Floats | None) -> None:
        """Take one step on these rows."""
        batch = self._encode(examples, targets)
        if weights is not None:
            batch = replace(batch, weights=weights.astype(np.float32))
        self._now = max(self._now, batch.now)
        outcome = self._learner.learn(batch, self._tables.pull(batch.keys, now=self._now))
        if not outcome.dropped:
            self._tables.push(batch.keys, outcome.row_grads)

    def _make(self) -> None:
        task: dict[str, Any] = {"task": "real"}
        if self._num_classes:
            many = self._num_classes > 2
            task = {"task": "class", "classes": self._num_classes} if many else {"task": "binary"}
        self._learner: Learner = copy.deepcopy(self._prototype)
        self._features = Features(
            [*self._declared, Label(_TARGET, **task)],
            defaults={"optimizer": Adagrad(), "initial": Uniform(), "admission": None, "expiry": None},
            plain=bool(getattr(self._learner, "reads_columns", False)),
        )
        self._tables = TableGroup(self._features.layout.tables, seed=self._seed)
        self._learner.bind(self._features.layout, self._seed)

    def _encode(self, examples: Examples, targets: Floats | None) -> Batch:
        arrays = {}
        for column in self._features.columns:
            if column == _TARGET:
                continue
            if isinstance(examples, Matrix):
                there = column in examples.names
                values = examples.values[:, examples.names.index(column)].tolist() if there else None
            else:
                values = [x.get(column) for x in examples]
            try:
                # In a frame a value that is not there is NaN, whatever its column holds.
                arrays[column] = (
                    pa.nulls(len(examples)) if values is None else pa.array(values, from_pandas=True)
                )
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                raise RequestError(f"feature {column!r}: its values do not go together: {error}") from error
        if targets is not None:
            arrays[_TARGET] = pa.array(targets)
        place = Place("", np.arange(len(examples), dtype=np.int64))
        records = pa.RecordBatch.from_pydict(arrays)
        batch = self._features.encode([records], [place], {}, learn=targets is not None)
        if batch.rejects:
            first = batch.rejects[0]
            raise RequestError(f"row {first.position}: {first.reason}, got {first.value!r}")
        return batch

    def __getstate__(self) -> dict[str, Any]:
        own = ("_declared", "_prototype", "_num_classes", "_seed", "_now")
        tables = {
            name: {item.name: getattr(rows, item.name) for item in fields(rows)}
            for name, rows in ((name, self._tables[name].rows()) for name in self._tables)
        }
        states = {
            "features": self._features.state(),
            "learner": self._learner.state(),
            "admission": self._tables.state(),
        }
        kept = {name: (state.arrays, state.facts) for name, state in states.items()}
        return {**{name: getattr(self, name) for name in own}, "tables": tables, "states": kept}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({name: value for name, value in state.items() if name.startswith("_")})
        self._make()
        for name, rows in state["tables"].items():
            self._tables[name].load(Delta(**rows))
        states = {name: State(*kept) for name, kept in state["states"].items()}
        self._features.load(states["features"])
        self._learner.load(states["learner"])
        self._tables.load_state(states["admission"])

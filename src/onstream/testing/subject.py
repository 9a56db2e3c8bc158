"""A learner under examination: the features and batches it is tried with, and one life of it."""

from __future__ import annotations

import itertools
import tempfile
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from onstream.checkpoints import LocalStore
from onstream.checkpoints.files import put
from onstream.checkpoints.states import read_state, state_bytes
from onstream.contracts import Batch, Delta, Layout, Learner, Outcome, Predictions, RowPolicy, Rows, State
from onstream.features import Declaration, Features, Id, IdList, Label, Number, Tensor, Weight
from onstream.streams import Place
from onstream.tables import SGD, Adagrad, TableGroup, Uniform

__all__ = [
    "LawError",
    "Life",
    "Make",
    "Promises",
    "Skip",
    "Subject",
    "broken",
    "differences",
    "drawn",
    "gap",
    "pieces",
    "stored",
]

Make = Callable[..., Learner]
"""Gives a learner that nobody has bound, for batches of a layout."""

_POLICY: dict[str, RowPolicy | None] = {"optimizer": Adagrad(lr=0.1), "initial": Uniform(-0.3, 0.3)}
_SEED = 11


class LawError(AssertionError):
    """A learner breaks a law: the message says which, what was expected, and what came."""


class Skip(unittest.SkipTest):
    """A law says nothing of this learner; the message says why. Test runners report it as skipped."""


@dataclass(frozen=True)
class Promises:
    """What a learner says that it can do; laws ask for no more.

    Parameters
    ----------
    fields : sequence of {"id", "list", "number", "tensor"}
        The kinds of features that it takes.
    tasks : sequence of {"binary", "real", "class"}
        Of labels.
    several_labels : bool
        Whether it takes several labels at once.
    by_parts : bool
        Whether learning a batch is the same, to the bit, as learning its rows one after the other.
    plain : bool
        Whether it takes the columns themselves, `Batch.columns`, instead of keys and rows.
    tolerance : float
        By how much predictions may differ, absolutely and relatively, between two ways of computing the same: a
        batch and its parts, the learner and what it exported. Learning, replays and states are to the bit always.
    waived : mapping of str to str
        Laws that do not hold by intention, by name, each with its reason. They are reported as skipped.
    """

    fields: Sequence[str] = ("id", "list", "number", "tensor")
    tasks: Sequence[str] = ("binary", "real", "class")
    several_labels: bool = True
    by_parts: bool = False
    plain: bool = False
    tolerance: float = 1e-5
    waived: Mapping[str, str] = field(default_factory=dict)


class Subject:
    """A learner that is examined.

    Parameters
    ----------
    make : callable
        Given a `Layout`, returns a learner that nobody has bound.
    promises : Promises
    """

    def __init__(self, make: Make, promises: Promises) -> None:
        self._make = make
        self.promises = promises

    def born(self, features: Features) -> Life:
        """Return the life of a fresh learner."""
        learner = self._make(features.layout)
        if not isinstance(learner, Learner):
            broken("make(layout) gives a Learner", type(learner).__name__)
        learner.bind(features.layout, _SEED)
        return Life(learner, features)

    # ------------------------------------------------------------------------------------- features

    def features(
        self, *, tasks: Sequence[str] = (), fewer: bool = False, weighted: bool = False, required: bool = True
    ) -> Features:
        """Return features of every kind that the learner takes.

        Parameters
        ----------
        tasks : sequence of str
            Of the labels; all that it takes together, by default.
        fewer : bool
            Leave out one feature of each kind that has several.
        weighted : bool
        required : bool
            Whether every label must be there.
        """
        labels = tasks or (self.promises.tasks if self.promises.several_labels else self.promises.tasks[:1])
        declared: list[Declaration] = []
        for kind in self.promises.fields:
            some = _FEATURES[kind]
            declared += some[1:] if fewer and len(some) > 1 else some
        declared += [
            Label(task, task, classes=3 if task == "class" else None, required=required)  # type: ignore[arg-type]
            for task in labels
        ]
        if weighted:
            declared.append(Weight("weight"))
        return Features(declared, defaults=_POLICY, plain=self.promises.plain)

    def every(self) -> Iterator[Features]:
        """Yield features with all labels together, and with each by itself."""
        seen: list[Layout] = []
        for tasks in ((), *((task,) for task in self.promises.tasks)):
            features = self.features(tasks=tasks)
            if features.layout not in seen:
                seen.append(features.layout)
                yield features

    def labelled(self) -> Features:
        """Return features with one label alone."""
        return self.features(tasks=self.promises.tasks[:1])


_FEATURES: dict[str, list[Declaration]] = {
    # The third is in a table of its own, since it says another optimizer.
    "id": [Id("user", 4), Id("item", 4), Id("place", 4, optimizer=SGD(lr=0.1))],
    "list": [
        IdList("tags", 4, pooling="mean"),
        IdList("words", 4, pooling="sum"),
        IdList("history", 4, pooling="pad", length=3),
    ],
    "number": [Number("price"), Number("age")],
    "tensor": [Tensor("image", (2, 3))],
}


def drawn(rows: int, seed: int, *, ids: tuple[int, int] = (0, 20), **columns: Any) -> pa.RecordBatch:
    """Return rows with values for every feature, the same for the same seed.

    Parameters
    ----------
    rows, seed : int
    ids : (int, int)
        Ids are from the first of these on, and below the second.
    **columns
        Columns to take instead: an array, or a value for every row.
    """
    rng = np.random.default_rng(seed)
    low, high = ids
    user, item = rng.integers(low, high, rows), rng.integers(low, high, rows)
    # Both ids and numbers say something of the labels.
    price = rng.standard_normal(rows)
    score = np.where(user % 2 == 0, 1.0, -1.0) + 0.3 * price
    made: dict[str, Any] = {
        "user": user,
        "item": item,
        "place": rng.integers(low, high, rows),
        **{
            name: [rng.integers(low, high, rng.integers(0, 4)).tolist() for _ in range(rows)]
            for name in ("tags", "words", "history")
        },
        "price": price,
        "age": rng.standard_normal(rows),
        "image": list(rng.standard_normal((rows, 6)).round(3)),
        "binary": (score > 0).astype(np.int64),
        "real": score,
        "class": np.digitize(score, (-0.5, 0.5)),
        "weight": np.ones(rows),
    }
    for name, values in columns.items():
        made[name] = values if isinstance(values, list | np.ndarray) else [values] * rows
    types = {"tags": pa.list_(pa.int64()), "words": pa.list_(pa.int64()), "history": pa.list_(pa.int64())}
    types |= {"image": pa.list_(pa.float64())}
    return pa.record_batch({name: pa.array(values, types.get(name)) for name, values in made.items()})


class Life:
    """A learner from its binding on, with the tables whose rows it learns.

    Parameters
    ----------
    learner : Learner
        Bound.
    features : Features
    """

    def __init__(self, learner: Learner, features: Features) -> None:
        self.learner = learner
        self.features = features
        self.tables = TableGroup(features.layout.tables, seed=_SEED, threads=1)
        self._deltas: dict[str, list[Delta]] = {name: [] for name in self.tables}

    def encode(self, rows: pa.RecordBatch) -> Batch:
        """Return rows as a batch."""
        return self.features.encode([rows], [Place("", np.arange(rows.num_rows, dtype=np.int64))], {})

    def rows_of(self, batch: Batch, *, learn: bool = False) -> dict[str, Rows]:
        """Return copies of the rows of a batch's keys."""
        pulled = self.tables.pull(batch.keys, now=0, learn=learn)
        return {name: rows.copy() for name, rows in pulled.items()}

    def predict(self, rows: pa.RecordBatch) -> Predictions:
        """Return what it predicts."""
        batch = self.encode(rows)
        return _copied(self.learner.predict(batch, self.rows_of(batch)))

    def learn(self, rows: pa.RecordBatch) -> Outcome:
        """Let it learn, and push the gradients of its rows."""
        batch = self.encode(rows)
        outcome = self.learner.learn(batch, self.rows_of(batch, learn=True))
        self.tables.push(batch.keys, outcome.row_grads)
        return Outcome(_copied(outcome.predictions), outcome.loss, outcome.row_grads, outcome.dropped)

    def grown(self, batches: int = 3, *, first: int = 0, rows: int = 16) -> Life:
        """Let it learn some batches; return this life."""
        for seed in range(first, first + batches):
            self.learn(drawn(rows, seed))
        return self

    def resumed(self, subject: Subject) -> Life:
        """Return the life of a new learner that goes on from this one's state, with a copy of its rows."""
        # First, since binding may seed a generator of the whole process, which is part of the state.
        state = stored(self.learner.state())
        other = subject.born(self.features)
        other.learner.load(state)
        for name, delta in self.tables.cut().items():
            self._deltas[name].append(delta)
            other.tables.load(name, self._deltas[name])
        return other


def stored(state: State) -> State:
    """Return a state as it comes back from a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        store = LocalStore(folder)
        return read_state(store, put(store, "state", [state_bytes("learner", state)]))


def differences(one: State, other: State, *, ignoring: str | None = None) -> list[str]:
    """Return the names of arrays and facts in which two states differ by a bit.

    Parameters
    ----------
    one, other : State
    ignoring : str, optional
        Do not compare arrays whose names begin with this, nor facts.
    """
    found = []
    for name in sorted({*one.arrays, *other.arrays}):
        if ignoring is not None and name.startswith(ignoring):
            continue
        pair = [state.arrays.get(name) for state in (one, other)]
        told = [None if a is None else (a.dtype, a.shape, a.tobytes()) for a in pair]
        if told[0] != told[1]:
            found.append(name)
    if ignoring is None:
        names = sorted({*one.facts, *other.facts})
        found += [f"fact {name}" for name in names if one.facts.get(name) != other.facts.get(name)]
    return found


def gap(found: Predictions, expected: Predictions, tolerance: float = 0.0) -> str | None:
    """Return where predictions differ by more than a tolerance, in words; None if they agree."""
    if list(found) != list(expected):
        return f"predictions of {list(found)}, not of {list(expected)}"
    for name, values in expected.items():
        own = found[name]
        if own.shape != values.shape:
            return f"shape {own.shape} for {name!r}, not {values.shape}"
        if not np.allclose(own, values, rtol=tolerance, atol=tolerance, equal_nan=True):
            at = np.unravel_index(np.nanargmax(np.abs(own - values)), own.shape)
            return f"{own[at]:.7g} for {name!r} in row {at[0]}, not {values[at]:.7g}"
    return None


def broken(expected: str, came: Any) -> NoReturn:
    """Raise the error of a broken law."""
    raise LawError(f"expected {expected}; got {came}")


def pieces(rows: pa.RecordBatch, *sizes: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows in parts of these sizes, over and over until none are left."""
    at = 0
    for size in itertools.cycle(sizes):
        if at >= rows.num_rows:
            return
        yield rows.slice(at, size)
        at += size


def _copied(predictions: Predictions) -> Predictions:
    return {name: np.array(values) for name, values in predictions.items()}

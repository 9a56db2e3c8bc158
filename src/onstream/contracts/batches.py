"""Batches: examples in the form in which they are learned from, and what their columns mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from onstream.contracts.streams import Capture, Reject
from onstream.contracts.tables import TableSpec
from onstream.contracts.values import Keys, Positions, Rows, State
from onstream.core import Plan

__all__ = ["Batch", "Emission", "FeedbackPolicy", "Field", "Label", "Layout", "Phase", "Task"]


@dataclass(frozen=True, slots=True)
class Field:
    """How one feature appears in a batch.

    Attributes
    ----------
    name : str
    kind : {"id", "list", "number", "tensor"}
        "id": one key a row. "list": a varying number of keys a row. "number": one float. "tensor": a block.
    table : str
        The table of an "id" or "list".
    column : int
        For "id", its column among the ids of its table; for "number", its column of `Batch.numbers`.
    dim : int
        Width of an embedding row; 1 for a number.
    pooling : {"sum", "mean", "pad"}
        For "list".
    length : int
        For a "list" with pooling "pad": rows are cut or padded to this length.
    shape : tuple of int
        For "tensor".
    """

    name: str
    kind: Literal["id", "list", "number", "tensor"]
    table: str = ""
    column: int = 0
    dim: int = 1
    pooling: Literal["sum", "mean", "pad"] = "sum"
    length: int = 0
    shape: tuple[int, ...] = ()


Task: TypeAlias = Literal["binary", "real", "class"]


class FeedbackPolicy(Protocol):
    """A frozen, comparable description of how a stream emits rows whose feedback comes late."""

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values, with its name under "kind"."""


@dataclass(frozen=True, slots=True)
class Label:
    """What is predicted: one label of a batch.

    Attributes
    ----------
    name : str
    task : {"binary", "real", "class"}
    classes : int
        0 unless the task is "class".
    policy : FeedbackPolicy, optional
        How rows are emitted while its feedback is open; None where labels are there with their rows.
    kept : float
        Share of negatives that the stream kept of all there were.
    """

    name: str
    task: Task
    classes: int = 0
    policy: FeedbackPolicy | None = None
    kept: float = 1.0


class Phase(IntEnum):
    """How far the feedback of an emitted row has come, for one label."""

    ABSENT = -1
    """The row is not about this label."""
    FINAL = 0
    """The first row of an impression to have a label, and its label is the outcome."""
    EARLY = 1
    """The first such row, as a negative; feedback may still come."""
    CORRECTION = 2
    """The outcome of an impression that had an early row."""
    ASKED = 3
    """Only to be predicted, when the impression comes; it has no label yet."""


@dataclass(frozen=True)
class Layout:
    """The shape of every batch of a job: what the learner needs to turn arrays into named tensors.

    Notes
    -----
    The keys of one table in one batch are one array: first the "id" fields of that table as a row-major
    block (rows, ids), then the keys of each of its "list" fields in the order of `fields`.
    """

    fields: tuple[Field, ...]
    labels: tuple[Label, ...]
    tables: tuple[TableSpec, ...]
    weighted: bool = False

    def ids(self, table: str) -> tuple[Field, ...]:
        """Return the "id" fields of a table, by column."""
        found = [f for f in self.fields if f.kind == "id" and f.table == table]
        return tuple(sorted(found, key=lambda f: f.column))

    def lists(self, table: str) -> tuple[Field, ...]:
        """Return the "list" fields of a table, in the order of their keys."""
        return tuple(f for f in self.fields if f.kind == "list" and f.table == table)


@dataclass(frozen=True, slots=True)
class Emission:
    """How the rows of a batch stand to one label whose feedback comes late; every array has one entry a row.

    Attributes
    ----------
    phase : ndarray of int8
        A `Phase`.
    elapsed : ndarray of float32
        Seconds from the impression to what the row tells: the delay of feedback, or the age without it.
    time : ndarray of float64
        Event time of the impression, in seconds since 1970.
    keys : ndarray of uint64
        Keys of the impressions.
    """

    phase: npt.NDArray[np.int8]
    elapsed: Rows
    time: npt.NDArray[np.float64]
    keys: Keys

    def pick(self, rows: npt.NDArray[Any]) -> Emission:
        """Return some rows, by mask or number."""
        return Emission(self.phase[rows], self.elapsed[rows], self.time[rows], self.keys[rows])


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples in the form in which they are learned from.

    Attributes
    ----------
    num_rows : int
        May be 0 when all rows of the range were rejected.
    keys : dict of str to ndarray of uint64, shape (n,)
        Keys of each table, laid out as `Layout` says. Key 0 means "no row": it reads as zeros.
    offsets : dict of str to ndarray of int64, shape (rows + 1,)
        For each "list" field, where each row's keys begin among the keys of that field.
    numbers : ndarray of float32, shape (rows, numbers)
    tensors : dict of str to ndarray of float32, shape (rows, *shape)
    labels : dict of str to ndarray of float32, shape (rows,)
        NaN where a label that may be absent is absent. Class labels are whole numbers.
    weights : ndarray of float32, shape (rows,), or None
    groups : dict of str to ndarray of uint64, shape (rows,)
        Keys of the columns by which metrics are grouped.
    now : int
        Newest event time of the batch, seconds since 1970; 0 when the job has no event time.
    positions : Positions
        Where to read on after this batch, for the partitions it touched.
    rejects : tuple of Reject
    state : State
        Of the feature transforms, after this batch.
    columns : dict of str to list, optional
        For a learner that `reads_columns` (see `Learner`), and then there are no tables: one plain value a row of
        each feature. Ids are texts, the same for all that is one id in a table (integers, whole floats and decimals
        as digits, booleans as 0 and 1, dates and times in ISO 8601), buckets their number, numbers and tensors
        (flat) floats after all transforms, in double precision where they were; None where an id is null.
    emissions : dict of str to Emission
        By label, where feedback comes late and the stream tells how far it has come.
    source : Capture, optional
        What the stream must remember to go on after this batch.
    plans : dict of str to Plan
        What a table needs to find out about `keys`, where that was done ahead.
    """

    num_rows: int
    keys: dict[str, Keys]
    offsets: dict[str, npt.NDArray[np.int64]]
    numbers: Rows
    tensors: dict[str, Rows]
    labels: dict[str, Rows]
    weights: Rows | None
    groups: dict[str, Keys]
    now: int
    positions: Positions
    rejects: tuple[Reject, ...]
    state: State
    columns: dict[str, list[Any]] | None = None
    emissions: dict[str, Emission] = field(default_factory=dict)
    again: bool = False
    source: Capture | None = None
    plans: dict[str, Plan] = field(default_factory=dict)

    @property
    def num_asked(self) -> int:
        """Rows that are there to be predicted only: of no label do they tell anything."""
        if not self.emissions or set(self.labels) - set(self.emissions):
            return 0
        phases = np.stack([emission.phase for emission in self.emissions.values()])
        asks = np.isin(phases, (Phase.ABSENT, Phase.ASKED)).all(axis=0) & (phases == Phase.ASKED).any(axis=0)
        return int(np.count_nonzero(asks))

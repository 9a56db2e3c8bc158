"""The facts that pass between rooms, and the protocols of what plugs in.

Rooms on one floor do not import each other; they meet here. The way of one batch::

    Stream.read -> Chunk -> (features) -> Batch -> RowTable.pull -> Learner.learn -> RowTable.push
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "Answering",
    "Array",
    "Batch",
    "Capture",
    "Chunk",
    "Delta",
    "Emission",
    "FeedbackPolicy",
    "Field",
    "Keeping",
    "Keys",
    "Label",
    "Layout",
    "Learned",
    "Learner",
    "Outcome",
    "Phase",
    "Positions",
    "Predictions",
    "Reject",
    "RowPolicy",
    "RowTable",
    "Rows",
    "State",
    "Stateful",
    "Store",
    "Stream",
    "TableSpec",
    "Task",
    "WarmStarting",
]

Array: TypeAlias = npt.NDArray[Any]
Keys: TypeAlias = npt.NDArray[np.uint64]
Rows: TypeAlias = npt.NDArray[np.float32]

Positions: TypeAlias = dict[str, int]
"""Where to read on: partition name to the position of its next unread row. A missing partition starts at 0."""

Predictions: TypeAlias = dict[str, Rows]
"""Label name to float32: probabilities (rows,), values (rows,), or class probabilities (rows, classes)."""


# ---------------------------------------------------------------------------------------- streams


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that could not be used: its place, the reason, and what it held.

    Attributes
    ----------
    partition, position
        Where the row begins in its stream.
    reason : str
        Why, in words that are the same for the same cause, so that reasons can be counted.
    value : str
        The offending value or line, shortened for the record.
    """

    partition: str
    position: int
    reason: str
    value: str = ""


class Capture(Protocol):
    """What a stream must remember besides positions, as it is at one moment. Taking one costs next to nothing."""

    def states(self) -> Mapping[str, State]:
        """Return all of it, by name, from any thread and at any later time.

        A checkpoint writes what is new: a state that is the same object as in the version before, under the same
        name, is not even looked at.
        """

    def figures(self) -> dict[str, float]:
        """Return numbers to report, by name; they may depend on the time of the call."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one partition as they were read.

    Attributes
    ----------
    batch : pyarrow.RecordBatch
    partition : str
    next : int
        The position to read on from after this chunk.
    ends : ndarray of int64, shape (num_rows,), optional
        The position after each row, for partitions whose positions are not row numbers (bytes of a text
        file). Without it, row `i` ends at ``next - num_rows + i + 1``.
    rejects : sequence of Reject
        Rows of this chunk's range that could not be decoded; they are not in `batch`.
    inner : ndarray of int64, shape (num_rows,), optional
        For partitions whose positions are messages of many rows: how many rows of the message at ``ends[i]`` have
        been given with row `i`; 0 where the row is the last of its message. `Positions` then hold it beside the
        position, under the name ``f"{partition}#rows"``.
    state : Capture, optional
        Of a `Stateful` stream: with it and any position within this chunk, its first and last included, reading
        goes on as if it had never stopped.
    again : bool
        These rows were given before: they are learned once more, and no metric counts them. No batch holds rows of
        both kinds.
    """

    batch: pa.RecordBatch
    partition: str
    next: int
    ends: npt.NDArray[np.int64] | None = None
    rejects: Sequence[Reject] = ()
    inner: npt.NDArray[np.int64] | None = None
    state: Capture | None = None
    again: bool = False


@runtime_checkable
class Stream(Protocol):
    """A replayable, partitioned source of examples.

    `live` tells whether it may be silent for long: it follows its source, or gives rows at a pace. Batches of a
    live stream are cut by waiting too, those of others by row count alone.
    """

    @property
    def live(self) -> bool:
        """Whether it may be silent for long."""

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Notes
        -----
        Whoever reads from the same positions sees the same rows in the same order within a partition,
        whatever `max_rows` is. A stream that follows its source blocks while nothing new is there, and
        returns soon after `stop` is set.
        """

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how much lies after `positions` and its unit ("rows" or "bytes"); None if it is unknown."""

    def schema(self) -> pa.Schema:
        """Return the columns that the stream yields, as far as they are known before reading on."""


@runtime_checkable
class Keeping(Protocol):
    """A stream that is told which of its positions are durable, and may ask for a checkpoint before it is due."""

    def kept(self, positions: Positions) -> None:
        """Take note that a checkpoint with these positions is durable.

        Called before `read` with what is read on from, and after each checkpoint, from any thread.
        """

    def asks(self, positions: Positions) -> bool:
        """Return whether a checkpoint is wanted now that everything before `positions` is learned."""

    def release(self) -> None:
        """Let go of what is held for the run: it is over, and nothing more will be kept."""


@runtime_checkable
class Stateful(Protocol):
    """A stream that remembers more than positions."""

    def load(self, states: Mapping[str, State]) -> None:
        """Let the next `read` go on from what `Capture.states` returned. A state is read when it is asked for."""


# ----------------------------------------------------------------------------------------- tables


class RowPolicy(Protocol):
    """A frozen, comparable description (of an optimizer, initialiser, admission or expiry)."""

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values, with its name under "kind"."""


@dataclass(frozen=True)
class TableSpec:
    """What makes a table: features that agree on all of `policy` and `dim` live in one.

    Attributes
    ----------
    name : str
    dim : int
        Floats of one row that the network sees.
    policy : dict
        Optimizer, initialiser, admission and expiry, as the features declared them.
    features : tuple of str
        The features whose rows live here.
    """

    name: str
    dim: int
    policy: Mapping[str, RowPolicy | None]
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """Rows of one table, cut out for a checkpoint. Arrays own their memory; nothing else writes to them.

    Attributes
    ----------
    keys : ndarray of uint64, shape (n,)
    seen : ndarray of uint32, shape (n,)
        Event time at which the key was last seen, seconds since 1970.
    count : ndarray of uint32, shape (n,)
        How often the key was seen.
    weights : ndarray of float32, shape (n, dim)
    state : ndarray of float32, shape (n, width)
        What the row optimizer remembers.
    deleted : ndarray of uint64, shape (m,)
        Keys dropped since the last cut. No key is in both `keys` and `deleted`.
    bounds, deleted_bounds : ndarray of int64, shape (partitions + 1,)
        Rows of partition `p` are ``bounds[p]:bounds[p + 1]``. A key's partition depends on the key alone, so
        deltas can be merged partition by partition.
    """

    keys: Keys
    seen: npt.NDArray[np.uint32]
    count: npt.NDArray[np.uint32]
    weights: Rows
    state: Rows
    deleted: Keys
    bounds: npt.NDArray[np.int64]
    deleted_bounds: npt.NDArray[np.int64]


class RowTable(Protocol):
    """Rows by key. A table in this process and one sharded over a cluster are the same two verbs."""

    def pull(self, keys: Keys, *, now: int = 0, learn: bool = True) -> Rows:
        """Return the rows of `keys`, float32 (n, dim). With `learn`, keys without a row are admitted."""

    def push(self, keys: Keys, grads: Rows) -> None:
        """Apply one gradient step; gradients of a repeated key are summed in order of occurrence."""


# ----------------------------------------------------------------------------- features and batches


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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class State:
    """What a part must remember to go on exactly: named arrays and JSON facts."""

    arrays: dict[str, Array] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


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


# --------------------------------------------------------------------------------------- learners


@dataclass(frozen=True, slots=True)
class Outcome:
    """What learning from one batch gave.

    Attributes
    ----------
    predictions : Predictions
        Made before the update.
    loss : float
        Of these predictions, as the learner defines it.
    row_grads : dict of str to ndarray of float32, shape (n, dim)
        For each table, the gradient of the loss by every pulled row. Empty when the batch was dropped.
    dropped : bool
        True when loss or gradients were not finite: nothing was updated.
    """

    predictions: Predictions
    loss: float
    row_grads: dict[str, Rows]
    dropped: bool = False


@runtime_checkable
class Learner(Protocol):
    """How a batch becomes predictions and gradients. It sees arrays and does not know where rows live.

    Notes
    -----
    A class with the attribute ``reads_columns = True`` gets plain values, in `Batch.columns`, instead of rows of
    embedding tables: its job has no tables. Others pay nothing for that.

    A class with the attribute ``learns_by_row = True`` learns the rows of a batch one by one: what `learn` predicts
    of a row comes before that row was learned, and after those before it in the batch were.
    """

    def bind(self, layout: Layout, seed: int) -> None:
        """Get ready for batches of `layout`; called once, before anything else."""

    def predict(self, batch: Batch, rows: dict[str, Rows]) -> Predictions:
        """Predict without changing anything."""

    def learn(self, batch: Batch, rows: dict[str, Rows]) -> Outcome:
        """Predict, then learn from the batch's labels."""

    def state(self) -> State:
        """Return everything that decides future predictions and updates."""

    def load(self, state: State) -> None:
        """Go on from `state`."""

    def export(self) -> State | None:
        """Return what predicts without the user's code, given the arrays of `state`; None if there is none."""


@runtime_checkable
class WarmStarting(Protocol):
    """A learner that can begin with parameters which were trained elsewhere."""

    def warm_start(self, path: Path, *, rename: Mapping[str, str], strict: bool) -> None:
        """Take parameters from a file; called once after `bind`, before any batch, and not when going on.

        Parameters
        ----------
        path : Path
        rename : mapping of str to str
            Beginnings of names in the file, and what stands there in the network.
        strict : bool
            Whether every parameter must be in the file, and no other. Without it, the rest begins as ever.

        Raises
        ------
        JobError
            If the file cannot be read, or names or shapes are others than the network's.
        """


@dataclass(frozen=True, slots=True)
class Learned:
    """One batch that has been learned, for those who wait to hear of their rows.

    Attributes
    ----------
    before : Positions
        Where the batch began.
    batch : Batch
    outcome : Outcome, optional
        None when all rows of the batch were rejected.
    labels : tuple of Label
    examples : int
        How many examples the model has learned, this batch included.
    """

    before: Positions
    batch: Batch
    outcome: Outcome | None
    labels: tuple[Label, ...]
    examples: int


@runtime_checkable
class Answering(Protocol):
    """A stream whose writers may wait for what the model made of their rows."""

    def answer(self, learned: Learned) -> None:
        """Let those who asked know. Called after every batch; must cost next to nothing when nobody asked."""


# ------------------------------------------------------------------------------------ checkpoints


class Store(Protocol):
    """Where checkpoint files lie. Names are relative, with "/" between parts, and never leave the store.

    Local disk is one store; an object store can be another, since nothing is appended or renamed by callers.
    """

    def write(self, name: str, parts: Sequence[bytes | memoryview | pa.Buffer]) -> int:
        """Write the parts as one file, durable and visible whole or not at all; return its size in bytes."""

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, memory-mapped where the store can. Raises FileNotFoundError."""

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted."""

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""

"""Learners: how batches become predictions and gradients, and who hears of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from onstream.contracts.batches import Batch, Label, Layout
from onstream.contracts.values import Positions, Predictions, Rows, State

__all__ = ["Answering", "Learned", "Learner", "Outcome", "WarmStarting"]


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

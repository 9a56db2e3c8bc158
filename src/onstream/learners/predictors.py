"""Opening what a learner exported, by its kind: what serves a model needs none of the code that trained it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

from onstream.contracts import Batch, Layout, Predictions, Rows, State
from onstream.errors import CheckpointError

__all__ = ["ENTRY_POINTS", "PICKLED", "PREDICTORS", "WEIGHTS", "Predictor", "open_predictor", "weights_of"]

WEIGHTS = "network/"
"""Arrays of a learner's state whose names begin so are what its predictor needs of each version."""

PREDICTORS = {
    "torch": "onstream.learners.exported:ExportedNetwork",
    "stablehlo": "onstream.learners.keras.stablehlo:StableHloPredictor",
    "graphdef": "onstream.learners.keras.graphdef:GraphDefPredictor",
    "river": "onstream.learners.river.predictor:RiverPredictor",
}
"""By the "kind" among the facts of what a learner exports: where the class is that predicts from it.

It is imported when a checkpoint asks for it, so it may need an optional library, and is called with the exported
`State` and the `Layout`.
"""

PICKLED = {
    "river-pickle": "onstream.learners.river.predictor:PickledRiverPredictor",
}
"""Kinds that unpickle what a checkpoint holds, which then runs whatever code it says; opened only where allowed."""

ENTRY_POINTS = "onstream.predictors"
"""Group of entry points by which an installed package adds kinds of its own."""


class Predictor(Protocol):
    """What predicts as a learner would, made of what the learner exported and the layout of its batches.

    Notes
    -----
    Checkpoints may come from strangers: whoever implements this runs none of their code, unpickles nothing, and
    raises CheckpointError for whatever does not fit. `predict` may be called from any number of threads at once;
    `load` stands alone.
    """

    def load(self, state: State) -> None:
        """Become another version.

        Parameters
        ----------
        state : State
            Of the learner at that version: all its facts, and the arrays named `WEIGHTS`, without that prefix.
            More arrays than it needs may be there; they are its own from now on.
        """

    def predict(self, batch: Batch, rows: Mapping[str, Rows]) -> Predictions:
        """Return what the learner would predict; `rows` are those that the tables gave for the batch's keys."""


def open_predictor(exported: State, layout: Layout, *, allow_pickle: bool = False) -> Predictor:
    """Return what predicts from the state that a learner's `export` gave; it has no weights before its `load`.

    Parameters
    ----------
    exported : State
    layout : Layout
    allow_pickle : bool
        Open also what is pickled, and so runs whatever code the checkpoint says. Only for checkpoints of people
        whom you would let run code here.

    Raises
    ------
    CheckpointError
        If there is nothing for its kind, the state is not what the kind says, or it is pickled and must not be.
    MissingExtraError
        If its library is not installed.

    Notes
    -----
    Which code runs is up to what is installed here: a checkpoint picks one by name, and brings none.
    """
    # States written before there were kinds are PyTorch's.
    kind = exported.facts.get("kind", "torch") if isinstance(exported.facts, dict) else None
    if isinstance(kind, str) and kind in PICKLED and not allow_pickle:
        raise CheckpointError(
            f"the exported model is of the kind {kind!r}: opening it runs whatever code the checkpoint says; if you "
            f"trust those who wrote it, allow it by `onstream serve --allow-pickle`"
        )
    return _find(kind)(exported, layout)


def weights_of(state: State) -> State:
    """Return what a predictor's `load` takes of a learner's state."""
    arrays = {n.removeprefix(WEIGHTS): array for n, array in state.arrays.items() if n.startswith(WEIGHTS)}
    return State(arrays, state.facts)


def _find(kind: object) -> Callable[[State, Layout], Predictor]:
    found: Callable[[State, Layout], Predictor] | None = None
    if isinstance(kind, str):
        for entry in entry_points(group=ENTRY_POINTS, name=kind):
            found = entry.load()
        if place := {**PREDICTORS, **PICKLED}.get(kind):
            module, _, name = place.partition(":")
            found = getattr(import_module(module), name)
    if found is not None:
        return found
    known = sorted({*PREDICTORS, *entry_points(group=ENTRY_POINTS).names})
    raise CheckpointError(
        f"the exported model is of the kind {kind!r}, here are {known}; install what brings that kind, or use "
        f"the onstream that wrote it"
    )

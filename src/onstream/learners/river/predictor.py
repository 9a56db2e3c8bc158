"""A river model from a checkpoint, which predicts without the code that made it."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from onstream.contracts import Array, Batch, Layout, Predictions, Rows, State
from onstream.errors import CheckpointError, JobError, RequestError
from onstream.learners.river.rows import Asking, import_river, new_predictions, row_dicts
from onstream.learners.river.unpack import unpack

__all__ = ["FORMAT", "PickledRiverPredictor", "RiverPredictor", "read_model"]

FORMAT = "onstream.river/1"


class RiverPredictor:
    """River models as a checkpoint keeps them: they predict what the learner would.

    Parameters
    ----------
    exported : State
        What the learner's `export` returned.
    layout : Layout
        Of the batches to predict.

    Raises
    ------
    CheckpointError
        If the state is no exported river model, or not for this layout.
    MissingExtraError
        If river is not installed.

    Notes
    -----
    One row after the other, and one call after the other: Python runs no two at once, and not every model of
    river may be asked from two threads.
    """

    allow_pickle = False

    def __init__(self, exported: State, layout: Layout) -> None:
        import_river()
        facts = exported.facts
        labels = [label.name for label in layout.labels]
        if facts.get("format") != FORMAT or facts.get("labels") != labels:
            raise CheckpointError(
                f"the exported river model is of the format {facts.get('format')!r} for the labels "
                f"{facts.get('labels')!r}, expected {FORMAT!r} for {labels!r}; the checkpoint was changed, or "
                f"another onstream wrote it"
            )
        self._layout = layout
        self._lock = threading.Lock()
        self._models: list[Asking] = []

    def load(self, state: State) -> None:
        """Become another version.

        Raises
        ------
        CheckpointError
            If a model is missing, damaged, or pickled where that is not allowed.
        """
        models = []
        for label in self._layout.labels:
            model = read_model(state.arrays, label.name, allow_pickle=self.allow_pickle)
            if model is None:
                raise CheckpointError(f"the checkpoint has no river model for the label {label.name!r}")
            try:
                models.append(Asking(label, model))
            except (JobError, AttributeError, TypeError) as error:
                raise CheckpointError(f"the river model of {label.name!r} cannot be used: {error}") from error
        self._models = models

    def predict(self, batch: Batch, rows: Mapping[str, Rows]) -> Predictions:
        """Return the predictions for a batch; `rows` are not looked at.

        Raises
        ------
        RequestError
            If a model cannot predict a row, as one may that misses a feature; another row may be fine.
        """
        found = {label.name: new_predictions(label, batch.num_rows) for label in self._layout.labels}
        with self._lock:
            for at, x in enumerate(row_dicts(self._layout, batch)):
                for asking in self._models:
                    try:
                        found[asking.label.name][at] = asking.predict_one(dict(x))
                    except Exception as error:
                        raise RequestError(
                            f"row {at}: the river model of {asking.label.name!r} cannot predict it: "
                            f"{type(error).__name__}: {str(error)[:300]}"
                        ) from error
        return found


class PickledRiverPredictor(RiverPredictor):
    """River models of which some are pickled: whoever opens this lets the checkpoint run any code."""

    allow_pickle = True


def read_model(arrays: Mapping[str, Array], label: str, *, allow_pickle: bool) -> Any:
    """Return the model of a label among the arrays of a learner's state; None if there is none.

    Raises
    ------
    CheckpointError
        If it is damaged, or pickled where that is not allowed.
    """
    own = {
        name.removeprefix(f"{label}/"): array
        for name, array in arrays.items()
        if name.startswith(f"{label}/")
    }
    if "program" in own:
        return unpack(own)
    if "pickle" not in own:
        return None
    if not allow_pickle:
        raise CheckpointError(
            f"the river model of {label!r} is pickled, and reading a pickle runs whatever code it says; if you "
            f"trust the checkpoint, allow it: River(..., allow_pickle=True), or `onstream serve --allow-pickle`"
        )
    try:
        return pickle.loads(np.ascontiguousarray(own["pickle"]).tobytes())
    except Exception as error:
        raise CheckpointError(
            f"the pickled river model of {label!r} cannot be read: {type(error).__name__}: {error}"
        ) from error

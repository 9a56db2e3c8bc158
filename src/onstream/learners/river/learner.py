"""The river learner: any classifier, regressor or anomaly detector of river, pipelines included."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onstream.contracts import Array, Batch, Label, Layout, Outcome, Predictions, Rows, State
from onstream.errors import CheckpointError, JobError
from onstream.learners.predictors import WEIGHTS
from onstream.learners.river.objects import PackError, pack
from onstream.learners.river.predictor import FORMAT, read_model
from onstream.learners.river.rows import Asking, import_river, new_predictions, row_dicts

__all__ = ["River"]

_SMALLEST = 1e-15


@dataclass(eq=False)
class River:
    """Learn with a model of river, row by row.

    Use it for what has no gradients over embeddings: trees and forests, naive Bayes, nearest neighbours, anomaly
    detectors, or a first baseline in one line.

    Parameters
    ----------
    model : river estimator, or dict of these by label name
        A `Classifier` for binary and class labels, a `Regressor` for real ones; for a binary label also an
        `AnomalyDetector`, which never sees the label. What it has learned already is kept; the object itself is
        not changed. Give stochastic models a seed: river draws another one for each run.
    allow_pickle : bool
        Keep in checkpoints also what has no place there otherwise, such as models of other libraries and functions
        of your own: pickled, so that reading such a checkpoint runs whatever code it holds. Serving it needs
        ``--allow-pickle``.

    Raises
    ------
    MissingExtraError
        If river is not installed.

    Notes
    -----
    Unlike with other learners, the rows of a batch are learned one by one: each is predicted, then learned, and
    the next one is predicted by what came of that. So the batch size changes neither predictions nor the model, and
    the job's metrics are those of river's ``evaluate.progressive_val_score``, on the same stream.

    A row is a dict by feature. Ids come as texts, whatever they were read as, so that a request may say 7 or "7";
    lists of ids as lists of texts; where an id is null, it is left out. Numbers come after the transforms of their
    `Number`, in double precision; without any, as they were read. There are no embedding tables.

    A binary prediction is the probability of True, 0.5 while a model knows no class; a detector's is its score,
    which must be from 0 to 1 to be measured, as that of `HalfSpaceTrees` is. A null label (`Label` with
    ``required=False``) teaches nothing but a detector. Row weights go to the model as ``w``.

    Checkpoints hold the model without pickle, to the bit: see `onstream.learners.river.objects`. Writing one takes
    time that grows with the model, about half a second where a pickle would have 1 MB.

    References
    ----------
    Montiel et al. 2021, "River: machine learning for streaming data in Python", JMLR 22(110).

    Examples
    --------
    >>> from river import linear_model, preprocessing
    >>> learner = River(preprocessing.StandardScaler() | linear_model.LogisticRegression())
    """

    model: Any
    allow_pickle: bool = False

    reads_columns: ClassVar[bool] = True
    learns_by_row: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check what can be checked without a layout."""
        base = import_river().base
        for model in self.model.values() if isinstance(self.model, Mapping) else (self.model,):
            if not isinstance(model, base.Estimator):
                raise JobError(f"River: model must be an estimator of river, got {model!r}")

    def bind(self, layout: Layout, seed: int) -> None:
        """Copy the models and get ready for batches of `layout`."""
        names = [label.name for label in layout.labels]
        given = self.model if isinstance(self.model, Mapping) else dict.fromkeys(names, self.model)
        if set(given) != set(names) or (len(names) > 1 and given is not self.model):
            raise JobError(f"River: the job's labels are {names}; give a dict with a model for each")
        self._layout = layout
        self.notes: list[str] = []
        self._models = [self._asking(label, copy.deepcopy(given[label.name])) for label in layout.labels]
        # What has no place in a checkpoint is better known now than at the first one.
        self._texts = {asking.label.name: repr(asking.model) for asking in self._models}
        self._pickled = {asking.label.name for asking in self._models if "pickle" in self._arrays(asking)}

    def predict(self, batch: Batch, rows: dict[str, Rows]) -> Predictions:
        """Predict without changing anything; `rows` are not looked at."""
        found = self._room(batch)
        for at, x in enumerate(row_dicts(self._layout, batch)):
            for asking in self._models:
                found[asking.label.name][at] = self._do(asking, at, x, None)
        return found

    def learn(self, batch: Batch, rows: dict[str, Rows]) -> Outcome:
        """Predict each row, then learn it, before the next.

        Raises
        ------
        JobError
            If a model fails; the message tells the row. The rows before it have been learned.
        """
        found = self._room(batch)
        weights = None if batch.weights is None else batch.weights.tolist()
        labels = {name: values.tolist() for name, values in batch.labels.items()}
        for at, x in enumerate(row_dicts(self._layout, batch)):
            weight = None if weights is None else weights[at]
            for asking in self._models:
                name = asking.label.name
                found[name][at] = self._do(asking, at, x, (labels[name][at], weight))
        return Outcome(found, _loss(self._layout, found, batch), {})

    def state(self) -> State:
        """Return the models as they are.

        Raises
        ------
        CheckpointError
            If a model holds by now what cannot be kept without pickle.
        """
        arrays: dict[str, Array] = {}
        self._pickled = set()
        for asking in self._models:
            try:
                packed = self._arrays(asking)
            except JobError as error:
                raise CheckpointError(str(error)) from error
            if "pickle" in packed:
                self._pickled.add(asking.label.name)
            arrays.update({f"{WEIGHTS}{asking.label.name}/{name}": array for name, array in packed.items()})
        return State(arrays, {"models": self._texts, "river": import_river().__version__})

    def load(self, state: State) -> None:
        """Go on from `state`: the models there count, with their own parameters; `notes` tells where they differ."""
        arrays = {name.removeprefix(WEIGHTS): array for name, array in state.arrays.items()}
        written = state.facts.get("river")
        if written != import_river().__version__:
            self.notes.append(f"river is {import_river().__version__}, and {written} wrote the checkpoint")
        for at, asking in enumerate(self._models):
            name = asking.label.name
            model = read_model(arrays, name, allow_pickle=self.allow_pickle)
            if model is None:
                self.notes.append(f"the checkpoint has no river model for the label {name!r}: it begins anew")
                continue
            before = state.facts.get("models", {}).get(name)
            if before != self._texts[name]:
                self.notes.append(
                    f"the model of {name!r} goes on as the checkpoint has it, made as {before}; the job says "
                    f"{self._texts[name]} now, which counts in a directory of its own"
                )
                self._texts[name] = str(before)
            self._models[at] = self._asking(asking.label, model)

    def export(self) -> State:
        """Return what is needed, beside the arrays of `state`, to predict without the code that made the models."""
        labels = [label.name for label in self._layout.labels]
        kind = "river-pickle" if self._pickled else "river"
        return State({}, {"kind": kind, "format": FORMAT, "labels": labels})

    def _asking(self, label: Label, model: Any) -> Asking:
        asking = Asking(label, model)
        if self._layout.weighted and not asking.takes_weights():
            raise JobError(
                f"River: the job has a Weight, and {type(model).__name__} does not learn rows with weights; "
                f"leave out the Weight"
            )
        return asking

    def _room(self, batch: Batch) -> Predictions:
        return {label.name: new_predictions(label, batch.num_rows) for label in self._layout.labels}

    @staticmethod
    def _do(asking: Asking, at: int, x: dict[str, Any], learn: tuple[float, float | None] | None) -> Any:
        """Return the prediction for a row, which a model then learns, if it is to."""
        try:
            # Copies: a model may change what it is given, and may keep it.
            found = asking.predict_one(dict(x))
            if learn is not None:
                asking.learn_one(dict(x), *learn)
        except Exception as error:
            raise JobError(
                f"River: the model of {asking.label.name!r} failed at row {at} of its batch, {x!r:.300}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return found

    def _arrays(self, asking: Asking) -> dict[str, Array]:
        try:
            return pack(asking.model)
        except PackError as error:
            if not self.allow_pickle:
                raise JobError(
                    f"River: the model of {asking.label.name!r} cannot be kept without pickle: {error}; use what "
                    f"river has for it, or set River(..., allow_pickle=True) and trust whoever writes checkpoints"
                ) from error
        try:
            return {"pickle": np.frombuffer(pickle.dumps(asking.model), np.uint8).copy()}
        except Exception as error:
            raise JobError(
                f"River: the model of {asking.label.name!r} cannot even be pickled: {error}; functions must be "
                f"those of a module that can be imported"
            ) from error


def _loss(layout: Layout, predictions: Predictions, batch: Batch) -> float:
    """Return the mean over all rows of log loss, or of the squared error of real labels, summed over the labels."""
    total = 0.0
    for label in layout.labels:
        y = batch.labels[label.name].astype(np.float64)
        there = ~np.isnan(y)
        y, found = y[there], predictions[label.name][there].astype(np.float64)
        if label.task == "real":
            losses = (found - y) ** 2
        else:
            hit = (
                found[np.arange(len(y)), y.astype(int)]
                if label.task == "class"
                else np.where(y, found, 1 - found)
            )
            losses = -np.log(np.clip(hit, _SMALLEST, None))
        if batch.weights is not None:
            losses = losses * batch.weights[there]
        total += math.fsum(losses)
    return total / max(batch.num_rows, 1)

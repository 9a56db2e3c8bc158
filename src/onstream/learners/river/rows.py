"""What a river model is asked, row by row: from a batch of plain values to predictions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from onstream.contracts import Batch, Label, Layout, Rows
from onstream.errors import JobError, MissingExtraError

__all__ = ["Asking", "import_river", "new_predictions", "row_dicts"]


def import_river() -> Any:
    """Return the river package.

    Raises
    ------
    MissingExtraError
        If it is not installed.
    """
    try:
        import river
        import river.base
    except ImportError as error:
        raise MissingExtraError("river models need river: pip install 'onstream[river]'") from error
    return river


def row_dicts(layout: Layout, batch: Batch) -> Iterator[dict[str, Any]]:
    """Yield each row as river sees it: values by feature; those of a tensor by "name_0", "name_1" and on.

    An id that is null is left out.
    """
    if batch.columns is None:
        raise JobError(
            "River needs batches of plain values; make the features with plain=True, as a Job does"
        )
    names: list[str] = []
    columns: list[Any] = []
    for field in layout.fields:
        column = batch.columns[field.name]
        if field.kind == "tensor":
            size = int(np.prod(field.shape))
            names += [f"{field.name}_{at}" for at in range(size)]
            columns += zip(*column, strict=True) if column else [()] * size
        else:
            names.append(field.name)
            columns.append(column)
    for values in zip(*columns, strict=True):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def new_predictions(label: Label, num_rows: int) -> Rows:
    """Return room for the predictions of a label."""
    return np.empty((num_rows, label.classes) if label.task == "class" else num_rows, np.float32)


class Asking:
    """One label's model, and how it is asked.

    Parameters
    ----------
    label : Label
    model : river estimator

    Raises
    ------
    JobError
        If the model does not predict what the label asks for.
    """

    def __init__(self, label: Label, model: Any) -> None:
        base = import_river().base
        self.label = label
        self.model = model
        self._alone = isinstance(model, base.AnomalyDetector)
        self.predict_one: Callable[[dict[str, Any]], Any]
        ask: dict[str, Callable[[dict[str, Any]], Any]] = {
            "binary": self._positive,
            "class": self._classes,
            "real": self._value,
        }
        wanted = base.Regressor if label.task == "real" else base.Classifier
        if label.task == "binary" and self._alone:
            self.predict_one = self._score
        elif isinstance(model, wanted):
            self.predict_one = ask[label.task]
        else:
            raise JobError(
                f"River: label {label.name!r} is {label.task} and needs a {wanted.__name__}"
                f"{' or an AnomalyDetector' if label.task == 'binary' else ''}, got {type(model).__name__}"
            )
        if label.task == "class" and not getattr(getattr(model, "_last_step", model), "_multiclass", True):
            raise JobError(
                f"River: label {label.name!r} has {label.classes} classes, and the model knows two; wrap it, as "
                f"in river.multiclass.OneVsRestClassifier(model)"
            )

    def takes_weights(self) -> bool:
        """Tell whether the model can learn a row with a weight."""
        step = getattr(self.model, "_last_step", self.model)
        parameters = inspect.signature(step.learn_one).parameters
        return "w" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def learn_one(self, x: dict[str, Any], y: float, weight: float | None) -> None:
        """Learn one row; a label that is NaN teaches a detector only, which does without. Weight 0 teaches nothing."""
        if weight == 0:
            return
        options = {} if weight is None else {"w": weight}
        if self._alone:
            self.model.learn_one(x, **options)
        elif y == y:
            self.model.learn_one(x, _CAST[self.label.task](y), **options)

    def _positive(self, x: dict[str, Any]) -> float:
        found = self._probabilities(x)
        return float(found.get(True, 0.0)) if found else 0.5

    def _classes(self, x: dict[str, Any]) -> Any:
        found = self._probabilities(x)
        classes = self.label.classes
        return [found.get(at, 0.0) for at in range(classes)] if found else [1 / classes] * classes

    def _value(self, x: dict[str, Any]) -> float:
        found = self.model.predict_one(x)
        return 0.0 if found is None else float(found)

    def _score(self, x: dict[str, Any]) -> float:
        return float(self.model.score_one(x))

    def _probabilities(self, x: dict[str, Any]) -> dict[Any, float]:
        try:
            found: dict[Any, float] = self.model.predict_proba_one(x)
        except NotImplementedError:
            # A classifier that only decides is sure.
            decided = self.model.predict_one(x)
            return {} if decided is None else {decided: 1.0}
        return found


_CAST: dict[str, Callable[[float], Any]] = {"binary": bool, "class": int, "real": float}

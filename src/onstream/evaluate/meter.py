"""Progressive validation: how good predictions were, each made before its example was learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from onstream.contracts import Batch, Emission, Keys, Label, Predictions, Rows, State, Task
from onstream.errors import CheckpointError, JobError, ShapeError
from onstream.evaluate.absolute_error import MAE
from onstream.evaluate.accuracy import Accuracy
from onstream.evaluate.auc import AUC
from onstream.evaluate.calibration import Calibration
from onstream.evaluate.classes import ClassAccuracy, ClassLogLoss, narrow
from onstream.evaluate.log_loss import LogLoss
from onstream.evaluate.metric import Metric
from onstream.evaluate.normalized_entropy import NormalizedEntropy
from onstream.evaluate.pending import Pending
from onstream.evaluate.r_squared import RSquared
from onstream.evaluate.ranking import exact_auc, grouped_auc
from onstream.evaluate.squared_error import RMSE
from onstream.evaluate.window import Window
from onstream.feedback import Policy

__all__ = ["METRIC_NAMES", "LabelReport", "Meter", "Report"]

_METRICS: dict[Task, dict[str, Callable[[], Metric]]] = {
    "binary": {
        "auc": AUC,
        "log_loss": LogLoss,
        "ne": NormalizedEntropy,
        "calibration": Calibration,
        "accuracy": Accuracy,
    },
    "real": {"rmse": RMSE, "mae": MAE, "r2": RSquared},
    "class": {"log_loss": ClassLogLoss, "accuracy": ClassAccuracy},
}

METRIC_NAMES: dict[Task, tuple[str, ...]] = {task: tuple(metrics) for task, metrics in _METRICS.items()}
"""What is measured of a label, by its task."""

# How far above 1 a sum of float32 probabilities may be rounded.
_ROUNDING = 1e-5


@dataclass(frozen=True, slots=True)
class LabelReport:
    """How well one label was predicted.

    Attributes
    ----------
    examples : int
        Examples that were evaluated since the stream began.
    invalid : int
        Examples left out because prediction, label or weight was infinite, or prediction or weight was NaN.
    overall : dict of str to float
        Metrics since the stream began, by name. "auc_error_bound" tells how exact "auc" is.
    window : dict of str to float
        The same metrics over the last examples; here "auc" is exact.
    groups : dict of str to float
        AUC within the groups of each group column (GAUC) over the last examples, for a binary label.
    """

    examples: int
    invalid: int
    overall: dict[str, float]
    window: dict[str, float]
    groups: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """How well all labels of a job were predicted.

    Attributes
    ----------
    examples : int
        Rows seen since the stream began, whether or not they had labels.
    labels : dict of str to LabelReport
    """

    examples: int
    labels: dict[str, LabelReport]

    def flat(self) -> dict[str, float]:
        """Return all numbers by name, such as "click/overall/ne" and "click/window/gauc/user"."""
        flat: dict[str, float] = {"examples": self.examples}
        for name, label in self.labels.items():
            flat[f"{name}/overall/examples"] = label.examples
            flat[f"{name}/overall/invalid"] = label.invalid
            flat |= {f"{name}/overall/{metric}": value for metric, value in label.overall.items()}
            flat |= {f"{name}/window/{metric}": value for metric, value in label.window.items()}
            flat |= {f"{name}/window/gauc/{group}": value for group, value in label.groups.items()}
        return flat


class Meter:
    """Evaluate every prediction of a job, over the whole stream and over the last examples.

    Parameters
    ----------
    labels : tuple of Label
        Binary labels are measured by AUC, log loss, normalized entropy, calibration and accuracy; real ones
        by RMSE, MAE and R-squared; class labels by log loss and accuracy.
    window : int
        Examples kept of each label.
    groups : tuple of str
        Columns of `Batch.groups` within which the AUC of binary labels is measured too.

    Notes
    -----
    Progressive validation: given predictions made before their examples are learned from, each value is an
    honest estimate on unseen examples, and no example is held back for it. Where feedback comes late, the prediction
    that counts is that made when the impression came, once, when its outcome is final; see `Pending`. Where a share of
    the negatives was kept, metrics are those of the full stream. A meter is not safe for use by
    several threads at once. The same updates give the same bits, and so does going on from a state.

    References
    ----------
    A. Blum, A. Kalai, J. Langford (1999), Beating the hold-out: bounds for k-fold and progressive
    cross-validation, COLT.
    """

    def __init__(
        self, labels: tuple[Label, ...], *, window: int = 100_000, groups: tuple[str, ...] = ()
    ) -> None:
        if window < 1:
            raise JobError(f"the window of the metrics must be at least 1 example, got {window!r}")
        self.labels = labels
        self.window = window
        self.groups = groups
        self._examples = 0
        self._tracks = {label.name: _Track(label, window, groups) for label in labels}

    def update(self, predictions: Predictions, batch: Batch) -> None:
        """Evaluate the predictions of one batch.

        Parameters
        ----------
        predictions : dict of str to ndarray of float32
            Shape (rows,) for each binary and real label, (rows, classes) for each class label.
        batch : Batch
            Rows whose label is NaN are not evaluated for that label.

        Raises
        ------
        ShapeError
            If predictions have another shape, or a class label is not one of the classes.
        JobError
            If predictions of a binary or class label are not probabilities.
        """
        self._examples += batch.num_rows
        for name, track in self._tracks.items():
            emission = batch.emissions.get(name)
            track.update(predictions[name], batch.labels[name], batch.weights, batch.groups, emission)

    def report(self) -> Report:
        """Return all values; windowed ones are computed now, in a few milliseconds a label."""
        return Report(self._examples, {name: track.report() for name, track in self._tracks.items()})

    def merge(self, other: Self) -> None:
        """Take in the overall metrics and counts of another meter; windows stay as they are.

        Raises
        ------
        JobError
            If the other meter has other labels.
        """
        if other.labels != self.labels:
            raise JobError(
                f"only meters of the same labels can be merged, got {_describe(self.labels)!r} and "
                f"{_describe(other.labels)!r}"
            )
        self._examples += other._examples
        for name, track in self._tracks.items():
            track.merge(other._tracks[name])

    def state(self) -> State:
        """Return everything that decides future reports. The arrays are copies."""
        state = State(facts={"examples": self._examples, "labels": _describe(self.labels)})
        for name, track in self._tracks.items():
            _put(state, f"label/{name}", track.state())
        return state

    def load(self, state: State) -> None:
        """Go on from `state`, bit for bit.

        Raises
        ------
        CheckpointError
            If the state is of other labels.

        Notes
        -----
        The window may have another size: the newest examples that fit are kept. With other groups than
        before, windows begin empty.
        """
        if state.facts["labels"] != _describe(self.labels):
            raise CheckpointError(
                f"the evaluation state is of labels {state.facts['labels']!r}, the job has "
                f"{_describe(self.labels)!r}; start without the evaluation state"
            )
        self._examples = int(state.facts["examples"])
        for name, track in self._tracks.items():
            track.load(_part(state, f"label/{name}"))


class _Track:
    """All that is measured of one label."""

    def __init__(self, label: Label, window: int, groups: tuple[str, ...]) -> None:
        self.label = label
        # Only rankings are measured within groups, so the other tasks need not keep them.
        self.window = Window(window, groups if label.task == "binary" else ())
        self.overall = {name: metric() for name, metric in _METRICS[label.task].items()}
        self.examples = 0
        self.invalid = 0
        self.pending = _pending(label, self.window.groups)

    def update(
        self,
        prediction: Rows,
        label: Rows,
        weight: Rows | None,
        groups: dict[str, Keys],
        emission: Emission | None = None,
    ) -> None:
        self._check_shape(prediction, label)
        groups = {name: groups[name] for name in self.window.groups}
        if self.pending is not None and emission is not None:
            prediction, label, weight, groups = self.pending.update(
                prediction, label, weight, groups, emission
            )
        elif self.label.kept < 1:
            count = np.where(label == 0, np.float32(1 / self.label.kept), np.float32(1))
            weight = count if weight is None else weight * count
        usable = np.isfinite(label) if weight is None else np.isfinite(label) & np.isfinite(weight)
        if not usable.all():
            self.invalid += int(np.count_nonzero(~usable & ~np.isnan(label)))
            prediction, label, weight, groups = _pick(usable, prediction, label, weight, groups)
        if self.label.task == "class":
            prediction, label = narrow(prediction, label)
        usable = np.isfinite(prediction)
        if not usable.all():
            self.invalid += int(np.count_nonzero(~usable))
            prediction, label, weight, groups = _pick(usable, prediction, label, weight, groups)
        self._check_range(prediction)

        self.examples += len(label)
        for metric in self.overall.values():
            metric.update(prediction, label, weight)
        self.window.append(prediction, label, weight, groups)

    def report(self) -> LabelReport:
        overall = {}
        for name, metric in self.overall.items():
            overall[name] = metric.value()
            if isinstance(metric, AUC):
                overall[f"{name}_error_bound"] = metric.error_bound()
        prediction, label, weight, groups = self.window.examples()
        window = {}
        for name, new_metric in _METRICS[self.label.task].items():
            if new_metric is AUC:
                window[name] = exact_auc(prediction, label, weight)
            else:
                metric = new_metric()
                metric.update(prediction, label, weight)
                window[name] = metric.value()
        gauc = {name: grouped_auc(prediction, label, keys, weight) for name, keys in groups.items()}
        return LabelReport(self.examples, self.invalid, overall, window, gauc)

    def merge(self, other: _Track) -> None:
        self.examples += other.examples
        self.invalid += other.invalid
        for name, metric in self.overall.items():
            metric.merge(other.overall[name])

    def state(self) -> State:
        state = State(facts={"examples": self.examples, "invalid": self.invalid})
        for name, metric in self.overall.items():
            _put(state, f"overall/{name}", metric.state())
        _put(state, "window", self.window.state())
        if self.pending is not None:
            _put(state, "pending", self.pending.state())
        return state

    def load(self, state: State) -> None:
        self.examples = int(state.facts["examples"])
        self.invalid = int(state.facts["invalid"])
        for name, metric in self.overall.items():
            metric.load(_part(state, f"overall/{name}"))
        self.window.load(_part(state, "window"))
        if self.pending is not None and "pending" in state.facts:
            self.pending.load(_part(state, "pending"))

    def _check_shape(self, prediction: Rows, label: Rows) -> None:
        name, task, classes = self.label.name, self.label.task, self.label.classes
        expected = (len(label), classes) if task == "class" else (len(label),)
        if prediction.shape != expected:
            raise ShapeError(
                f"predictions of {task} label {name!r} must have shape {expected}, got {prediction.shape}"
            )

    def _check_range(self, prediction: Rows) -> None:
        if self.label.task == "real" or len(prediction) == 0:
            return
        low, high = float(prediction.min()), float(prediction.max())
        if low < 0 or high > 1 + _ROUNDING:
            raise JobError(
                f"predictions of {self.label.task} label {self.label.name!r} must be probabilities from 0 "
                f"to 1, got {low if low < 0 else high!r}; predict probabilities, not logits"
            )


def _pending(label: Label, groups: tuple[str, ...]) -> Pending | None:
    """Return what keeps predictions of a label until their outcome is known, None where it comes with them."""
    policy = label.policy
    if not isinstance(policy, Policy) or not policy.columns:
        return None
    return Pending(
        policy.window_s + policy.lateness_s,
        asked=policy.measured_share > 0,
        closes=policy.corrects == "feedback",
        groups=groups,
        share=label.kept,
    )


def _pick(
    rows: npt.NDArray[np.bool_], prediction: Rows, label: Rows, weight: Rows | None, groups: dict[str, Keys]
) -> tuple[Rows, Rows, Rows | None, dict[str, Keys]]:
    """Return the chosen rows of each column."""
    picked = {name: keys[rows] for name, keys in groups.items()}
    return prediction[rows], label[rows], None if weight is None else weight[rows], picked


def _describe(labels: tuple[Label, ...]) -> list[list[str | int]]:
    """Return labels as JSON values."""
    return [[label.name, label.task, label.classes] for label in labels]


def _put(state: State, name: str, part: State) -> None:
    """Put the state of a part into that of the whole, under its name."""
    state.arrays.update({f"{name}/{key}": array for key, array in part.arrays.items()})
    state.facts[name] = part.facts


def _part(state: State, name: str) -> State:
    """Return what `_put` put under a name."""
    start = f"{name}/"
    arrays = {key.removeprefix(start): array for key, array in state.arrays.items() if key.startswith(start)}
    return State(arrays, state.facts[name])

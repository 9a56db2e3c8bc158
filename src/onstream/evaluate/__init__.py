"""Streaming metrics, and where they are reported."""

from onstream.evaluate.absolute_error import MAE
from onstream.evaluate.accuracy import Accuracy
from onstream.evaluate.auc import AUC
from onstream.evaluate.bounds import Bound, metric_names, parse_bounds, resolve_bounds
from onstream.evaluate.calibration import Calibration
from onstream.evaluate.classes import ClassAccuracy, ClassLogLoss, narrow
from onstream.evaluate.log_loss import LogLoss
from onstream.evaluate.meter import LabelReport, Meter, Report
from onstream.evaluate.metric import Metric
from onstream.evaluate.normalized_entropy import NormalizedEntropy
from onstream.evaluate.prometheus import Prometheus
from onstream.evaluate.r_squared import RSquared
from onstream.evaluate.ranking import exact_auc, grouped_auc
from onstream.evaluate.sink import Sink
from onstream.evaluate.squared_error import RMSE
from onstream.evaluate.tensorboard import TensorBoard
from onstream.evaluate.window import Examples, Window

__all__ = [
    "AUC",
    "MAE",
    "RMSE",
    "Accuracy",
    "Bound",
    "Calibration",
    "ClassAccuracy",
    "ClassLogLoss",
    "Examples",
    "LabelReport",
    "LogLoss",
    "Meter",
    "Metric",
    "NormalizedEntropy",
    "Prometheus",
    "RSquared",
    "Report",
    "Sink",
    "TensorBoard",
    "Window",
    "exact_auc",
    "grouped_auc",
    "metric_names",
    "narrow",
    "parse_bounds",
    "resolve_bounds",
]

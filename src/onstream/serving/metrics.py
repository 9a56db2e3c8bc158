"""What a server tells Prometheus."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from onstream.contracts import Predictions, Rows
from onstream.errors import MissingExtraError
from onstream.serving.batcher import Call
from onstream.serving.tally import Tally

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
    from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, SummaryMetricFamily
    from prometheus_client.exposition import CONTENT_TYPE_LATEST
except ImportError as error:
    raise MissingExtraError("metrics need prometheus_client: pip install 'onstream[serving]'") from error

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["CONTENT_TYPE", "Condition", "Loaded", "Metrics", "ModelMetrics", "Route"]

Route: TypeAlias = Literal["usual", "canary", "shadow"]
"""How requests come to a version. Versions have no label of their own: there is a new one every few seconds."""

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds: from 50 microseconds, below which no wire answers, to the longest deadline that makes sense.
_TIMES = (
    *(float(f"{m}e-6") for m in (50, 100, 200, 350, 500, 750)),
    *(float(f"{m}e-3") for m in (1, 1.5, 2, 3.5, 5, 7.5, 10, 15, 20, 35, 50, 100, 200, 500)),
    *(1.0, 2.0, 5.0, 10.0, 30.0),
)
_AGES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60, 300, 1800, 3600, 86_400)
_SIZES = tuple(2**i for i in range(17))
_DIFFERENCES = tuple(float(f"{m}e{e}") for e in range(-6, 1) for m in (1, 3))


class Loaded(NamedTuple):
    """A version that answers: its number, and when it was cut, in seconds since 1970, if it says."""

    version: int
    cut_s: float | None


@dataclass(frozen=True, slots=True)
class Condition:
    """How a model is at the moment."""

    ready: bool
    queued_rows: int
    loaded: Mapping[Route, Loaded]


class Metrics:
    """Count what a server does, for Prometheus to scrape.

    Notes
    -----
    All families have names that begin with "onstream_"; the process's own registry is not touched. Counting
    one request takes some 5 microseconds. All methods may be called from any thread.

    Attributes
    ----------
    tally : Tally
        The same in a few numbers for people, since they were last looked at.
    """

    def __init__(self) -> None:
        """Make a registry of its own."""
        self.tally = Tally()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "onstream_requests",
            "Requests, however they ended.",
            ["wire", "model", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "onstream_request_seconds",
            "Time from the arrival of a request for predictions to its answer.",
            ["wire", "model"],
            buckets=_TIMES,
            registry=self.registry,
        )
        self._rows = Counter(
            "onstream_answered_rows",
            "Rows that were predicted and answered.",
            ["wire", "model"],
            registry=self.registry,
        )
        self._per_model = {
            "batch_rows": self._histogram("batch_rows", "Rows of one call of the model.", _SIZES),
            "batch_requests": self._histogram(
                "batch_requests", "Requests joined in one call of the model.", _SIZES
            ),
            "batch_seconds": self._histogram("batch_seconds", "Time of one call of the model.", _TIMES),
            "wait_seconds": self._histogram("queue_wait_seconds", "How long requests were queued.", _TIMES),
        }
        self._freshness = self._histogram(
            "freshness_seconds", "Age of the data of a new version when it began to answer.", _AGES
        )
        self._failures = Counter(
            "onstream_replica_failures",
            "Times that a new version could not be loaded.",
            ["model", "route"],
            registry=self.registry,
        )
        self._dropped = Counter(
            "onstream_shadow_dropped_requests",
            "Requests that the shadow did not score, because it was busy or failed.",
            ["model"],
            registry=self.registry,
        )
        self._unrecorded = Counter(
            "onstream_unrecorded_requests",
            "Requests that the record lacks, because it could not keep up.",
            ["model"],
            registry=self.registry,
        )
        self._models: dict[str, tuple[ModelMetrics, Callable[[], Condition]]] = {}
        self._children: dict[tuple[str, str, str], _Children] = {}
        self.registry.register(self)

    def observe(self, wire: str, model: str, status: str, seconds: float, rows: int) -> None:
        """Count a request that has ended; the wires call this."""
        key = (wire, model, status)
        children = self._children.get(key)
        if children is None:
            # Requests that ask for no predictions have no model; their times would say nothing.
            children = self._children[key] = _Children(
                self._requests.labels(*key),
                self._seconds.labels(wire, model) if model else None,
                self._rows.labels(wire, model) if model else None,
            )
        children.requests.inc()
        if children.seconds is not None and children.rows is not None:
            self.tally.request(seconds, rows, answered=status == "ok")
            children.seconds.observe(seconds)
            if rows:
                children.rows.inc(rows)

    def of(self, model: str, condition: Callable[[], Condition]) -> ModelMetrics:
        """Return what counts for one model, of which each scrape asks the condition."""
        found = ModelMetrics(self, model)
        self._models[model] = found, condition
        return found

    def render(self) -> bytes:
        """Return all numbers in the text format of Prometheus."""
        text: bytes = generate_latest(self.registry)
        return text

    def collect(self) -> Iterator[Metric]:
        """Yield how each model is now; the registry calls this on each scrape."""
        now = time.time()
        ready = GaugeMetricFamily(
            "onstream_model_ready", "Whether the model should get requests.", labels=["model"]
        )
        queued = GaugeMetricFamily("onstream_queue_rows", "Rows that wait to be predicted.", labels=["model"])
        by_route = ["model", "route"]
        version = GaugeMetricFamily("onstream_model_version", "Version that answers.", labels=by_route)
        staleness = GaugeMetricFamily(
            "onstream_staleness_seconds", "Time since the version that answers was cut.", labels=by_route
        )
        predictions = SummaryMetricFamily(
            "onstream_prediction", "Predictions; sum by count is their mean.", labels=[*by_route, "label"]
        )
        differences = HistogramMetricFamily(
            "onstream_shadow_difference",
            "How far the prediction of the shadow is from that which was answered.",
            labels=["model", "label"],
        )
        for name, (metrics, condition) in self._models.items():
            for (route, label), (count, total) in metrics.sums():
                predictions.add_metric([name, route, label], count, total)
            for label, (counts, total) in metrics.differences():
                edges = [*map(str, _DIFFERENCES), "+Inf"]
                buckets = list(zip(edges, np.cumsum(counts).tolist(), strict=True))
                differences.add_metric([name, label], buckets, total)
            found = condition()
            ready.add_metric([name], float(found.ready))
            queued.add_metric([name], found.queued_rows)
            for route, loaded in found.loaded.items():
                version.add_metric([name, route], loaded.version)
                if loaded.cut_s is not None:
                    staleness.add_metric([name, route], max(0.0, now - loaded.cut_s))
        yield from (ready, queued, version, staleness, predictions, differences)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        labels = ["model", "route"]
        return Histogram(f"onstream_{name}", text, labels, buckets=buckets, registry=self.registry)


class ModelMetrics:
    """What counts for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        """Bind the families to the model."""
        self._metrics = metrics
        self._model = model
        self._lock = threading.Lock()
        self._sums: dict[tuple[Route, str], tuple[int, float]] = {}
        self._differences: dict[str, tuple[npt.NDArray[np.int64], float]] = {}

    def calls(self, route: Route) -> Callable[[Call], None]:
        """Return what is to be told of the calls of a batcher."""
        found = {name: family.labels(self._model, route) for name, family in self._metrics._per_model.items()}

        def observe(call: Call) -> None:
            found["batch_rows"].observe(call.rows)
            found["batch_requests"].observe(call.requests)
            found["batch_seconds"].observe(call.took_s)
            for waited_s in call.waited_s:
                found["wait_seconds"].observe(waited_s)

        return observe

    def predicted(self, route: Route, predictions: Predictions) -> None:
        """Count the predictions of one call: of a class label, the probability of each class."""
        for label, values in predictions.items():
            for name, column in _columns(label, values):
                column = _finite(column)
                total = float(column.sum(dtype=np.float64))
                with self._lock:
                    count, before = self._sums.get((route, name), (0, 0.0))
                    self._sums[route, name] = count + len(column), before + total

    def shadowed(self, answered: Predictions, shadow: Predictions) -> None:
        """Count how far the shadow is from what was answered; of a class label, the class farthest off."""
        for label in answered.keys() & shadow.keys():
            # Another version may have learned to tell more classes.
            if answered[label].shape == shadow[label].shape and len(shadow[label]):
                distance = np.abs(answered[label] - shadow[label])
                farthest = _finite(distance.reshape(len(distance), -1).max(1))
                found = np.bincount(np.searchsorted(_DIFFERENCES, farthest), minlength=len(_DIFFERENCES) + 1)
                total = float(farthest.sum(dtype=np.float64))
                with self._lock:
                    counts, before = self._differences.get(label, (np.zeros_like(found), 0.0))
                    self._differences[label] = counts + found, before + total

    def sums(self) -> list[tuple[tuple[Route, str], tuple[int, float]]]:
        """Return for each route and label how many predictions there were, and their sum."""
        with self._lock:
            return list(self._sums.items())

    def differences(self) -> list[tuple[str, tuple[npt.NDArray[np.int64], float]]]:
        """Return for each label how many differences fall in each bucket, and their sum."""
        with self._lock:
            return list(self._differences.items())

    def fresh(self, route: Route, seconds: float) -> None:
        """Count data that a new version knows, by its age when the version began to answer."""
        self._metrics._freshness.labels(self._model, route).observe(seconds)
        if route == "usual":
            self._metrics.tally.fresh(seconds)

    def failed(self, route: Route) -> None:
        """Count a version that could not be loaded."""
        self._metrics._failures.labels(self._model, route).inc()

    def shadow_dropped(self) -> None:
        """Count a request that the shadow did not score."""
        self._metrics._dropped.labels(self._model).inc()

    def unrecorded(self) -> None:
        """Count a request that the record lacks."""
        self._metrics._unrecorded.labels(self._model).inc()


class _Children(NamedTuple):
    requests: Counter
    seconds: Histogram | None
    rows: Counter | None


def _columns(label: str, values: Rows) -> Iterator[tuple[str, Rows]]:
    if values.ndim == 1:
        yield label, values
        return
    for i in range(values.shape[1]):
        yield f"{label}[{i}]", values[:, i]


def _finite(values: Rows) -> Rows:
    """Return the values without NaN and infinity, of which one would spoil a sum for good."""
    finite = np.isfinite(values)
    return values if finite.all() else values[finite]

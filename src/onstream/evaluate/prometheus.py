"""Metrics for Prometheus to scrape."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onstream.errors import JobError, MissingExtraError

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["Prometheus"]


@dataclass(frozen=True, slots=True)
class _Family:
    """How Prometheus is told of one kind of number. A name that ends in "_total" is a counter."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


_METRIC = re.compile(r"(?P<label>.+)/(?P<scope>overall|window)/(?P<metric>\w+)(/(?P<group>.+))?")
_METRIC_FAMILIES = {
    key: _Family(f"onstream_{name}", text, ("label", "scope"))
    for key, name, text in (
        ("examples", "evaluated_examples_total", "Examples whose prediction was evaluated."),
        ("invalid", "invalid_examples_total", "Examples left out of evaluation: a number was not finite."),
        ("auc", "auc_ratio", "Area under the ROC curve."),
        ("auc_error_bound", "auc_error_bound_ratio", "How far the AUC can be from the exact one."),
        ("log_loss", "log_loss_nats", "Mean negative log likelihood."),
        ("ne", "normalized_entropy_ratio", "Log loss by the entropy of the base rate."),
        ("calibration", "calibration_ratio", "Sum of predictions by sum of labels."),
        ("accuracy", "accuracy_ratio", "Share of predictions that are right."),
        ("rmse", "root_mean_squared_error", "Root mean squared error, in the unit of the label."),
        ("mae", "mean_absolute_error", "Mean absolute error, in the unit of the label."),
        ("r2", "r_squared_ratio", "Share of the label's variance that predictions explain."),
    )
}
_GROUPED_AUC = _Family(
    "onstream_grouped_auc_ratio", "Mean AUC within the groups of a column.", ("label", "scope", "group")
)

_JOB_FAMILIES = {
    "examples_per_second": _Family("onstream_examples_per_second", "Examples learned from per second."),
    "rejected_rows": _Family("onstream_rejected_rows_total", "Rows of the stream that could not be used."),
    "dropped_batches": _Family("onstream_dropped_batches_total", "Batches whose loss was not finite."),
    "checkpoint/version": _Family("onstream_checkpoint_version", "Version of the newest checkpoint."),
    "checkpoint/age_s": _Family("onstream_checkpoint_age_seconds", "Age of the newest checkpoint."),
    "checkpoint/longest_pause_s": _Family(
        "onstream_checkpoint_longest_pause_seconds",
        "Longest that learning stood still for a checkpoint, not counting the one export of the network.",
    ),
    "published/version": _Family("onstream_published_version", "Version that the job's tag points to."),
    "published/open": _Family("onstream_publishing", "1 if the newest checkpoint was published, else 0."),
    "paused": _Family("onstream_paused", "1 while learning stands still until it is resumed, else 0."),
    "guard/unseen": _Family("onstream_guard_unseen_ratio", "New rows of tables by ids read, recently."),
    "lag/rows": _Family("onstream_lag_rows", "Rows of the stream not yet read."),
    "lag/bytes": _Family("onstream_lag_bytes", "Bytes of the stream not yet read."),
    "lag/s": _Family("onstream_lag_seconds", "Age of the newest example learned from."),
}
_LABEL_RATE = re.compile(r"guard/(?P<label>.+)/label_rate")
_LABEL_RATE_FAMILY = _Family(
    "onstream_guard_label_rate_ratio", "Mean of a label over recent rows by its mean before.", ("label",)
)
_JOIN = re.compile(r"join/((?P<label>.+)/)?(?P<metric>\w+)")
_JOIN_FAMILIES = {
    key: _Family(f"onstream_join_{name}", text)
    for key, name, text in (
        ("waiting_rows", "waiting_rows", "Impressions that wait for feedback."),
        ("waiting_feedback", "waiting_feedback_rows", "Feedback that may belong to such."),
        ("memory_bytes", "memory_bytes", "What waits in memory, index included."),
        ("spilled_bytes", "spilled_bytes", "What waits on disk."),
        ("emitted_rows", "emitted_rows_total", "Rows that the join gave."),
        ("impressions", "impressions_total", "Impressions that came."),
        ("duplicate_impressions", "duplicate_impressions_total", "Impressions that were there already."),
        ("late_impressions", "late_impressions_total", "Impressions that came too late to wait."),
        ("rejected_rows", "rejected_rows_total", "Rows of the inputs that could not be used."),
        ("watermark", "watermark_timestamp_seconds", "Event time up to which everything should have come."),
        ("watermark_lag_s", "watermark_lag_seconds", "Newest event time less the watermark."),
        ("watermark_age_s", "watermark_age_seconds", "Time now less the watermark."),
    )
}
_JOIN_LABEL_FAMILIES = {
    key: _Family(f"onstream_join_{name}", text, ("label",))
    for key, name, text in (
        ("feedback", "feedback_total", "Feedback that came."),
        ("matched", "matched_feedback_total", "Feedback that met its impression."),
        ("unmatched", "unmatched_feedback", "Feedback that has not met an impression."),
        ("duplicates", "duplicate_feedback_total", "Feedback of an impression that had some already."),
        ("outside_window", "feedback_outside_window_total", "Feedback too long after its impression."),
        ("late", "late_feedback_total", "Feedback that came behind the watermark."),
        ("dropped", "dropped_feedback_total", "Feedback that came too late for any impression."),
        ("join_rate", "join_rate_ratio", "Share of feedback that met its impression."),
        ("coverage", "coverage_ratio", "Share of impressions that had feedback when they were over."),
        ("delay_p50_s", "delay_p50_seconds", "Median time from an impression to its feedback."),
        ("delay_p90_s", "delay_p90_seconds", "Time within which nine tenths of feedback came."),
        ("delay_p99_s", "delay_p99_seconds", "Time within which 99 of 100 feedback came."),
    )
}

_TABLE = re.compile(r"tables/(?P<table>.+)/(?P<metric>rows|bytes)")
_TABLE_FAMILIES = {
    "rows": _Family("onstream_table_rows", "Rows of an embedding table.", ("table",)),
    "bytes": _Family("onstream_table_size_bytes", "Memory of an embedding table.", ("table",)),
}

_EXAMPLES = _Family("onstream_examples_total", "Examples seen by the job.")
_REPORT_TIME = _Family("onstream_report_timestamp_seconds", "When these numbers were reported, since 1970.")
_OTHER = _Family("onstream_metric", "Any other metric of the job, by name.", ("name",))


class Prometheus:
    """Serve the newest metrics at ``http://address:port/metrics``.

    Parameters
    ----------
    port : int
        0 takes a free port; `port` tells which.
    address : str
        To listen on; the default is reached from this machine only.

    Raises
    ------
    MissingExtraError
        If prometheus_client is not installed.
    JobError
        If the address cannot be listened on.

    Notes
    -----
    Metrics of a `Report` become families such as ``onstream_auc_ratio{label="click",scope="window"}`` and
    ``onstream_grouped_auc_ratio{label="click",scope="window",group="user"}``. The job's own numbers are
    "examples_per_second", "rejected_rows", "dropped_batches", "checkpoint/version", "checkpoint/age_s",
    "published/version", "published/open", "paused", "guard/unseen", "guard/<label>/label_rate", "lag/rows",
    "lag/bytes", "lag/s", "tables/<table>/rows" and "tables/<table>/bytes", and those of a join, as
    ``onstream_join_waiting_rows`` and ``onstream_join_coverage_ratio{label="click"}``; any other name appears as
    ``onstream_metric{name="..."}``. A scrape sees one `write` whole: what the newest one lacks is gone. The
    registry of the process is not touched.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise MissingExtraError(
                "reporting to Prometheus needs prometheus_client: pip install 'onstream[prometheus]'"
            ) from error
        self._samples: dict[_Family, dict[tuple[str, ...], float]] = {}
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(port, address, registry)
        except (OSError, OverflowError) as error:
            raise JobError(
                f"Prometheus metrics cannot be served at {address}:{port}: {error}; "
                f"choose a free port of this machine"
            ) from error
        self.address = address
        self.port = int(self._server.server_port)

    def write(self, metrics: Mapping[str, float], *, step: int, wall_time: float) -> None:
        """Serve these numbers from now on.

        Parameters
        ----------
        metrics : mapping of str to float
        step : int
            Examples seen by the job so far.
        wall_time : float
            Seconds since 1970.
        """
        samples: dict[_Family, dict[tuple[str, ...], float]] = {
            _EXAMPLES: {(): step},
            _REPORT_TIME: {(): wall_time},
        }
        for name, value in metrics.items():
            # The examples that a report counts are the step.
            if name != "examples":
                family, labels = _place(name)
                samples.setdefault(family, {})[labels] = value
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        """Return the newest numbers; prometheus_client calls this on each scrape, from its own thread."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for family, samples in self._samples.items():
            kind = CounterMetricFamily if family.name.endswith("_total") else GaugeMetricFamily
            metric = kind(family.name, family.help, labels=family.labels)
            for labels, value in samples.items():
                metric.add_metric(labels, value)
            yield metric

    def close(self) -> None:
        """Stop serving and free the port. Closing again does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _place(name: str) -> tuple[_Family, tuple[str, ...]]:
    """Return the family of a metric and the values of its labels."""
    if name in _JOB_FAMILIES:
        return _JOB_FAMILIES[name], ()
    if found := _METRIC.fullmatch(name):
        label, scope, metric, group = found["label"], found["scope"], found["metric"], found["group"]
        if metric == "gauc" and group is not None:
            return _GROUPED_AUC, (label, scope, group)
        if metric in _METRIC_FAMILIES and group is None:
            return _METRIC_FAMILIES[metric], (label, scope)
    if found := _LABEL_RATE.fullmatch(name):
        return _LABEL_RATE_FAMILY, (found["label"],)
    if found := _JOIN.fullmatch(name):
        metric, label = found["metric"], found["label"]
        if label is None and metric in _JOIN_FAMILIES:
            return _JOIN_FAMILIES[metric], ()
        if label is not None and metric in _JOIN_LABEL_FAMILIES:
            return _JOIN_LABEL_FAMILIES[metric], (label,)
    if found := _TABLE.fullmatch(name):
        return _TABLE_FAMILIES[found["metric"]], (found["table"],)
    return _OTHER, (name,)

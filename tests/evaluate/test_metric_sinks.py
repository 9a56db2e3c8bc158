"""TensorBoard and Prometheus get the metrics, as their own readers see them."""

import math
import sys
import urllib.error
import urllib.request

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onstream.errors import JobError, MissingExtraError
from onstream.evaluate import Prometheus, Sink, TensorBoard


def curves(directory):
    """Return the points of each curve as TensorBoard reads them: (step, wall time, value)."""
    reader = EventAccumulator(str(directory))
    reader.Reload()
    return {
        tag: [(point.step, point.wall_time, point.value) for point in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }


@pytest.fixture(scope="module")
def prometheus():
    sink = Prometheus(0)
    yield sink
    sink.close()


def scrape(sink):
    """Return the served samples by name and labels, and the type of each family."""
    with urllib.request.urlopen(f"http://{sink.address}:{sink.port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
    return samples, {family.name: family.type for family in families}


def test_tensorboard_reads_back_each_point(tmp_path):
    sink = TensorBoard(tmp_path / "new" / "run")
    sink.write({"click/window/auc": 0.5, "click/overall/ne": 0.75}, step=4096, wall_time=10.0)
    sink.write({"click/window/auc": 0.625}, step=8192, wall_time=20.5)
    sink.close()
    assert curves(tmp_path / "new" / "run") == {
        "click/window/auc": [(4096, 10.0, 0.5), (8192, 20.5, 0.625)],
        "click/overall/ne": [(4096, 10.0, 0.75)],
    }


def test_points_can_be_read_before_tensorboard_is_closed(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write({"click/window/auc": 0.5}, step=1, wall_time=1.0)
    assert curves(tmp_path) == {"click/window/auc": [(1, 1.0, 0.5)]}
    sink.close()


def test_undefined_metrics_get_no_point_in_tensorboard(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.write({"a": math.nan, "b": 1.0}, step=1, wall_time=1.0)
    sink.close()
    assert set(curves(tmp_path)) == {"b"}


def test_a_resumed_run_hides_the_points_after_its_step_and_keeps_the_others(tmp_path):
    crashed = TensorBoard(tmp_path)
    for step in (10, 20, 30):
        crashed.write({"a": 1.0}, step=step, wall_time=float(step))
    crashed.close()
    resumed = TensorBoard(tmp_path, resume_step=20)
    resumed.write({"a": 2.0}, step=25, wall_time=40.0)
    resumed.close()
    assert curves(tmp_path) == {"a": [(10, 10.0, 1.0), (20, 20.0, 1.0), (25, 40.0, 2.0)]}


def test_a_closed_tensorboard_can_be_closed_again_but_not_written_to(tmp_path):
    sink = TensorBoard(tmp_path)
    sink.close()
    sink.close()
    with pytest.raises(ValueError, match="closed"):
        sink.write({"a": 1.0}, step=1, wall_time=1.0)


def test_prometheus_serves_metrics_of_labels_under_conventional_names(prometheus):
    prometheus.write(
        {
            "examples": 100,
            "click/overall/examples": 90,
            "click/overall/invalid": 3,
            "click/window/auc": 0.75,
            "click/overall/auc": 0.5,
            "click/window/gauc/user": 0.625,
            "price/window/rmse": 12.5,
        },
        step=100,
        wall_time=1234.5,
    )
    samples, types = scrape(prometheus)
    overall, window = ("scope", "overall"), ("scope", "window")
    click = ("label", "click")
    assert samples == {
        ("onstream_examples_total",): 100,
        ("onstream_report_timestamp_seconds",): 1234.5,
        ("onstream_evaluated_examples_total", click, overall): 90,
        ("onstream_invalid_examples_total", click, overall): 3,
        ("onstream_auc_ratio", click, window): 0.75,
        ("onstream_auc_ratio", click, overall): 0.5,
        ("onstream_grouped_auc_ratio", ("group", "user"), click, window): 0.625,
        ("onstream_root_mean_squared_error", ("label", "price"), window): 12.5,
    }
    assert types["onstream_examples"] == types["onstream_evaluated_examples"] == "counter"
    assert types["onstream_auc_ratio"] == "gauge"


def test_prometheus_serves_the_numbers_of_the_job(prometheus):
    prometheus.write(
        {
            "examples_per_second": 5000.5,
            "rejected_rows": 7,
            "dropped_batches": 2,
            "checkpoint/version": 12,
            "checkpoint/age_s": 3.5,
            "lag/rows": 40,
            "lag/bytes": 4096,
            "lag/s": 1.5,
            "tables/user/item/rows": 1000,
            "tables/user/item/bytes": 65536,
            "drift/p value": 0.125,
            "click/window/gauc": 0.25,
        },
        step=0,
        wall_time=0.0,
    )
    samples, types = scrape(prometheus)
    table = ("table", "user/item")
    assert samples == {
        ("onstream_examples_total",): 0,
        ("onstream_report_timestamp_seconds",): 0,
        ("onstream_examples_per_second",): 5000.5,
        ("onstream_rejected_rows_total",): 7,
        ("onstream_dropped_batches_total",): 2,
        ("onstream_checkpoint_version",): 12,
        ("onstream_checkpoint_age_seconds",): 3.5,
        ("onstream_lag_rows",): 40,
        ("onstream_lag_bytes",): 4096,
        ("onstream_lag_seconds",): 1.5,
        ("onstream_table_rows", table): 1000,
        ("onstream_table_size_bytes", table): 65536,
        ("onstream_metric", ("name", "drift/p value")): 0.125,
        ("onstream_metric", ("name", "click/window/gauc")): 0.25,
    }
    assert types["onstream_rejected_rows"] == "counter"


def test_undefined_metrics_are_nan_in_prometheus(prometheus):
    prometheus.write({"click/window/auc": math.nan}, step=0, wall_time=0.0)
    samples, _ = scrape(prometheus)
    assert math.isnan(samples["onstream_auc_ratio", ("label", "click"), ("scope", "window")])


def test_prometheus_serves_the_newest_write_alone(prometheus):
    prometheus.write({"tables/old/rows": 1}, step=1, wall_time=1.0)
    prometheus.write({"tables/new/rows": 2}, step=2, wall_time=2.0)
    assert scrape(prometheus)[0] == {
        ("onstream_examples_total",): 2,
        ("onstream_report_timestamp_seconds",): 2,
        ("onstream_table_rows", ("table", "new")): 2,
    }


def test_before_the_first_write_prometheus_serves_nothing():
    sink = Prometheus(0)
    assert scrape(sink)[0] == {}
    sink.close()


def test_the_registry_of_the_process_is_left_alone(prometheus):
    prometheus.write({"lag/rows": 1}, step=1, wall_time=1.0)
    assert b"onstream" not in prometheus_client.generate_latest()


def test_two_jobs_in_one_process_serve_their_own_numbers(prometheus):
    other = Prometheus(0, "localhost")
    prometheus.write({}, step=1, wall_time=0.0)
    other.write({}, step=2, wall_time=0.0)
    assert [scrape(sink)[0]["onstream_examples_total",] for sink in (prometheus, other)] == [1, 2]
    other.close()


def test_a_port_in_use_is_refused_by_its_number(prometheus):
    with pytest.raises(JobError, match=rf"at 127\.0\.0\.1:{prometheus.port}: .*in use"):
        Prometheus(prometheus.port)


def test_a_number_that_is_no_port_is_refused():
    with pytest.raises(JobError, match=r"at 127\.0\.0\.1:65536"):
        Prometheus(65536)


def test_a_closed_prometheus_frees_its_port_and_can_be_closed_again():
    sink = Prometheus(0)
    sink.close()
    sink.close()
    with pytest.raises(urllib.error.URLError):
        scrape(sink)
    Prometheus(sink.port).close()


def test_both_are_sinks(prometheus, tmp_path):
    board = TensorBoard(tmp_path)
    assert isinstance(prometheus, Sink)
    assert isinstance(board, Sink)
    board.close()


@pytest.mark.parametrize(
    ("module", "make", "extra"),
    [
        ("tensorboardX.event_file_writer", lambda path: TensorBoard(path), "tensorboard"),
        ("prometheus_client", lambda path: Prometheus(0), "prometheus"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(monkeypatch, tmp_path, module, make, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'onstream\[{extra}\]'"):
        make(tmp_path)


def test_prometheus_serves_the_figures_of_a_join(prometheus):
    prometheus.write(
        {"join/waiting_rows": 5, "join/watermark_lag_s": 2.5, "join/click/late": 3, "join/click/other": 1},
        step=1,
        wall_time=0.0,
    )
    samples, types = scrape(prometheus)
    assert samples[("onstream_join_waiting_rows",)] == 5
    assert samples[("onstream_join_watermark_lag_seconds",)] == 2.5
    assert samples["onstream_join_late_feedback_total", ("label", "click")] == 3
    assert types["onstream_join_late_feedback"] == "counter"
    assert samples["onstream_metric", ("name", "join/click/other")] == 1

"""A meter evaluates all labels of a job, and resumes bit for bit."""

import math

import numpy as np
import pytest
from evaluated import batch, bits, law, stored
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from onstream.contracts import Label
from onstream.errors import CheckpointError, JobError, ShapeError
from onstream.evaluate import Meter, exact_auc, grouped_auc

LABELS = (Label("click", "binary"), Label("price", "real"), Label("genre", "class", 3))
GROUPS = ("user", "item")


def stream(seed, sizes, *, weighted=False):
    """Return predictions and batches of all three labels; a tenth of each label is absent."""
    random = np.random.default_rng(seed)
    made = []
    for num_rows in sizes:
        # Steps of 1/64 give ties, and bins of their own.
        click = random.integers(0, 65, num_rows) / 64
        scores = random.random((num_rows, 3)) + 0.01
        predictions = {
            "click": click.astype(np.float32),
            "price": random.normal(5, 2, num_rows).astype(np.float32),
            "genre": (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32),
        }
        labels = {
            "click": (random.random(num_rows) < click).astype(np.float32),
            "price": (predictions["price"] + random.normal(0, 1, num_rows)).astype(np.float32),
            "genre": random.integers(0, 3, num_rows).astype(np.float32),
        }
        for column in labels.values():
            column[random.random(num_rows) < 0.1] = np.nan
        weights = random.integers(1, 9, num_rows).astype(np.float32) / 4 if weighted else None
        groups = {name: random.integers(0, 6, num_rows).astype(np.uint64) for name in GROUPS}
        made.append((predictions, batch(labels, weights=weights, groups=groups)))
    return made


def meter(**settings):
    return Meter(LABELS, **{"window": 64, "groups": GROUPS} | settings)


def fed(made, **settings):
    fresh = meter(**settings)
    for predictions, rows in made:
        fresh.update(predictions, rows)
    return fresh


def click(prediction, label, **columns):
    """Return what a meter of one binary label reports of one batch."""
    one = Meter((Label("click", "binary"),), window=10)
    one.update({"click": np.float32(prediction)}, batch({"click": np.float32(label)}, **columns))
    return one.report().labels["click"]


def whole(made, name):
    """Return all present examples of a label: prediction, label, weight, groups."""
    label = np.concatenate([rows.labels[name] for _, rows in made])
    present = ~np.isnan(label)
    weight = None
    if made[0][1].weights is not None:
        weight = np.concatenate([rows.weights for _, rows in made])[present]
    prediction = np.concatenate([predictions[name] for predictions, _ in made])[present]
    groups = {group: np.concatenate([rows.groups[group] for _, rows in made])[present] for group in GROUPS}
    return prediction, label[present], weight, groups


def expected_metrics(name, prediction, label, weight):
    """Return the metrics of scikit-learn over a batch of examples."""
    if name == "price":
        return {
            "rmse": sklearn_metrics.root_mean_squared_error(label, prediction, sample_weight=weight),
            "mae": sklearn_metrics.mean_absolute_error(label, prediction, sample_weight=weight),
            "r2": sklearn_metrics.r2_score(label, prediction, sample_weight=weight),
        }
    if name == "genre":
        chance = prediction.astype(np.float64)
        chance /= chance.sum(axis=1, keepdims=True)
        return {
            "log_loss": sklearn_metrics.log_loss(label, chance, sample_weight=weight),
            "accuracy": sklearn_metrics.accuracy_score(
                label, prediction.argmax(axis=1), sample_weight=weight
            ),
        }
    clipped = np.clip(prediction.astype(np.float64), 1e-7, 1 - 1e-7)
    base = np.average(label.astype(np.float64), weights=weight)
    log_loss = sklearn_metrics.log_loss(label, clipped, sample_weight=weight)
    return {
        "auc": sklearn_metrics.roc_auc_score(label, prediction, sample_weight=weight),
        "log_loss": log_loss,
        "ne": log_loss / -(base * math.log(base) + (1 - base) * math.log(1 - base)),
        "calibration": np.average(prediction.astype(np.float64), weights=weight) / base,
        "accuracy": sklearn_metrics.accuracy_score(label, prediction > 0.5, sample_weight=weight),
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["click", "price", "genre"])
def test_batch_by_batch_is_the_formula_over_the_whole_and_over_the_window(name, weighted):
    made = stream(1, [50, 0, 7, 200, 1, 90], weighted=weighted)
    report = fed(made).report().labels[name]
    prediction, label, weight, _ = whole(made, name)
    overall = {key: value for key, value in report.overall.items() if key != "auc_error_bound"}
    assert report.examples == len(label)
    assert overall == pytest.approx(expected_metrics(name, prediction, label, weight), rel=1e-5)
    last = slice(-64, None)
    expected = expected_metrics(name, prediction[last], label[last], None if weight is None else weight[last])
    assert report.window == pytest.approx(expected, rel=1e-5)


def test_groups_are_measured_over_the_window_of_binary_labels():
    made = stream(2, [100, 100])
    report = fed(made).report()
    prediction, label, _, groups = whole(made, "click")
    assert report.labels["click"].groups == {
        name: pytest.approx(grouped_auc(prediction[-64:], label[-64:], groups[name][-64:])) for name in GROUPS
    }
    assert report.labels["price"].groups == report.labels["genre"].groups == {}


sizes = st.lists(st.integers(0, 90), max_size=5)


@law
@given(sizes, sizes, st.booleans())
def test_a_resumed_meter_is_bit_equal_to_an_uninterrupted_one(before, after, weighted):
    made = stream(3, before + after, weighted=weighted)
    straight = fed(made)
    resumed = meter()
    resumed.load(stored(fed(made[: len(before)]).state()))
    for predictions, rows in made[len(before) :]:
        resumed.update(predictions, rows)
    assert bits(resumed.report().flat()) == bits(straight.report().flat())


@law
@given(sizes)
def test_reporting_changes_nothing_that_is_reported_later(sizes):
    made = stream(4, sizes)
    asked = meter()
    for predictions, rows in made:
        asked.update(predictions, rows)
        asked.report()
        asked.state()
    assert bits(asked.report().flat()) == bits(fed(made).report().flat())


def test_windowed_values_do_not_depend_on_batches():
    predictions, rows = stream(5, [150])[0]
    cut = meter()
    for start in range(0, 150, 13):
        part = slice(start, start + 13)
        cut.update(
            {name: column[part] for name, column in predictions.items()},
            batch(
                {name: column[part] for name, column in rows.labels.items()},
                groups={name: column[part] for name, column in rows.groups.items()},
            ),
        )
    once = fed([(predictions, rows)]).report().flat()
    window = {name: value for name, value in cut.report().flat().items() if "/window/" in name}
    assert bits(window) == bits({name: once[name] for name in window})


def test_the_state_of_a_meter_is_not_changed_by_updates_that_follow():
    made = stream(6, [70, 70])
    one = fed(made[:1])
    state, expected = one.state(), bits(one.report().flat())
    one.update(*made[1])
    restored = meter()
    restored.load(state)
    assert bits(restored.report().flat()) == expected


def test_merged_meters_report_the_overall_metrics_of_the_whole_and_keep_their_windows():
    made = stream(7, [80, 120])
    merged, other = fed(made[:1]), fed(made[1:])
    window = {name: label.window for name, label in merged.report().labels.items()}
    merged.merge(other)
    report, straight = merged.report(), fed(made).report()
    assert report.examples == 200
    for name, label in report.labels.items():
        assert label.examples == straight.labels[name].examples
        assert label.overall == pytest.approx(straight.labels[name].overall)
        assert label.window == window[name]


def test_rows_without_a_label_are_not_evaluated():
    report = click([0.2, 0.9, 0.6, 0.4], [0, np.nan, 1, np.nan])
    assert (report.examples, report.invalid) == (2, 0)
    assert report.window["calibration"] == report.overall["calibration"] == pytest.approx(0.8)


def test_numbers_that_are_not_finite_are_counted_and_left_out():
    nan, inf = np.nan, np.inf
    report = click(
        [nan, inf, 0.6, 0.4, 0.3, nan],
        [0, 1, inf, 1, 1, nan],
        weights=np.float32([1, 1, 1, inf, 2, 1]),
    )
    assert (report.examples, report.invalid) == (1, 4)
    assert report.overall["calibration"] == report.window["calibration"] == pytest.approx(0.3)


@pytest.mark.parametrize("label", [[], [np.nan, np.nan]])
def test_without_examples_every_metric_is_undefined(label):
    report = click([0.5] * len(label), label)
    values = report.overall | report.window
    assert report.examples == 0
    assert all(math.isnan(value) for value in values.values())


def test_certain_predictions_are_evaluated():
    report = click([0, 1, 1, 0], [0, 1, 0, 1])
    assert report.overall["auc"] == report.window["auc"] == 0.5
    assert report.overall["log_loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-6)


def test_a_batch_larger_than_the_window_leaves_its_last_rows():
    predictions, rows = stream(8, [1000])[0]
    report = fed([(predictions, rows)]).report().labels["click"]
    prediction, label, _, _ = whole([(predictions, rows)], "click")
    assert report.window["auc"] == exact_auc(prediction[-64:], label[-64:])


def test_flat_names_carry_label_scope_metric_and_group():
    flat = fed(stream(9, [200])).report().flat()
    binary = ["auc", "log_loss", "ne", "calibration", "accuracy"]
    real, classes = ["rmse", "mae", "r2"], ["log_loss", "accuracy"]
    assert set(flat) == {
        "examples",
        "click/overall/auc_error_bound",
        *(
            f"{name}/overall/{count}"
            for name in ("click", "price", "genre")
            for count in ("examples", "invalid")
        ),
        *(f"click/{scope}/{metric}" for scope in ("overall", "window") for metric in binary),
        *(f"price/{scope}/{metric}" for scope in ("overall", "window") for metric in real),
        *(f"genre/{scope}/{metric}" for scope in ("overall", "window") for metric in classes),
        *(f"click/window/gauc/{group}" for group in GROUPS),
    }
    assert flat["examples"] == 200


@pytest.mark.parametrize("name", ["labels", "examples", "click/overall/auc"])
def test_a_label_of_any_name_resumes(name):
    labels = (Label(name, "binary"), Label("click", "binary"))
    one, other = Meter(labels, window=4), Meter(labels, window=4)
    one.update(
        {name: np.float32([0.5]), "click": np.float32([0.25])},
        batch(dict.fromkeys((name, "click"), np.ones(1))),
    )
    other.load(stored(one.state()))
    assert bits(other.report().flat()) == bits(one.report().flat())


@pytest.mark.parametrize("prediction", [np.zeros((2, 1)), np.zeros(3), np.zeros((2, 3))])
def test_predictions_of_another_shape_are_refused(prediction):
    with pytest.raises(ShapeError, match=r"binary label 'click' must have shape \(2,\), got"):
        click(prediction, [0, 1])


@pytest.mark.parametrize("logit", [3.5, -0.25])
def test_logits_are_refused_by_their_value(logit):
    with pytest.raises(JobError, match=f"'click' must be probabilities from 0 to 1, got {logit}"):
        click([0.5, logit], [0, 1])


def test_a_state_of_other_labels_is_refused():
    state = Meter((Label("click", "real"),)).state()
    with pytest.raises(CheckpointError, match=r"of labels \[\['click', 'real', 0\]\]"):
        Meter((Label("click", "binary"),)).load(state)


def test_meters_of_other_labels_are_not_merged():
    with pytest.raises(JobError, match="only meters of the same labels"):
        Meter(LABELS).merge(Meter(LABELS[:1]))


def test_a_window_without_examples_is_refused():
    with pytest.raises(JobError, match="at least 1 example, got 0"):
        Meter(LABELS, window=0)


def test_a_window_may_change_its_size_between_runs():
    made = stream(10, [100])
    smaller = meter(window=16)
    smaller.load(stored(fed(made).state()))
    assert bits(smaller.report().flat()) == bits(fed(made, window=16).report().flat())


def test_with_other_groups_windows_begin_empty_and_overall_metrics_go_on():
    made = stream(11, [100])
    regrouped = meter(groups=("user",))
    regrouped.load(stored(fed(made).state()))
    report, straight = regrouped.report().labels["click"], fed(made).report().labels["click"]
    assert report.overall == straight.overall
    assert math.isnan(report.window["auc"])

"""Metrics that are sums agree with scikit-learn and plain formulas."""

import math

import numpy as np
import pytest
from evaluated import bits, examples, law, reals, stored
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from onstream.errors import ShapeError
from onstream.evaluate import (
    AUC,
    MAE,
    RMSE,
    Accuracy,
    Calibration,
    ClassAccuracy,
    ClassLogLoss,
    LogLoss,
    NormalizedEntropy,
    RSquared,
    narrow,
)

BINARY = (AUC, LogLoss, NormalizedEntropy, Calibration, Accuracy)
REAL = (MAE, RMSE, RSquared)
ALL = (*BINARY, *REAL, ClassLogLoss, ClassAccuracy)


def measure(metric_class, prediction, label, weight=None):
    metric = metric_class()
    metric.update(prediction, label, weight)
    return metric.value()


def clipped(prediction):
    return np.clip(prediction.astype(np.float64), 1e-7, 1 - 1e-7)


def entropy(base):
    return -(base * math.log(base) + (1 - base) * math.log(1 - base))


@law
@given(examples(min_size=1))
def test_log_loss_is_that_of_sklearn_on_clipped_probabilities(drawn):
    prediction, label, weight = drawn
    expected = sklearn_metrics.log_loss(label, clipped(prediction), sample_weight=weight, labels=[0, 1])
    assert measure(LogLoss, *drawn) == pytest.approx(expected, rel=1e-9)


def test_sure_and_wrong_predictions_cost_the_clip_and_no_more():
    wrong = measure(LogLoss, np.float32([0, 1]), np.float32([1, 0]))
    assert wrong == pytest.approx(-math.log(1e-7), rel=1e-9)


def test_sure_and_right_predictions_cost_the_clip_and_no_less():
    assert measure(LogLoss, np.float32([0, 1]), np.float32([0, 1])) == pytest.approx(1e-7, rel=1e-6)


@law
@given(examples(min_size=2))
def test_normalized_entropy_is_log_loss_over_the_entropy_of_the_base_rate(drawn):
    prediction, label, weight = drawn
    base = np.average(label.astype(np.float64), weights=weight)
    assume(0 < base < 1)
    log_loss = sklearn_metrics.log_loss(label, clipped(prediction), sample_weight=weight)
    assert measure(NormalizedEntropy, *drawn) == pytest.approx(log_loss / entropy(base), rel=1e-9)


def test_predicting_the_base_rate_has_a_normalized_entropy_of_one():
    label = np.float32([0, 0, 0, 1])
    assert measure(NormalizedEntropy, np.full(4, 0.25, np.float32), label) == pytest.approx(1)


@law
@given(examples(min_size=1))
def test_calibration_is_the_sum_of_predictions_over_the_sum_of_labels(drawn):
    prediction, label, weight = drawn
    assume(label.any())
    weight = np.ones(len(label)) if weight is None else weight
    expected = np.dot(prediction.astype(np.float64), weight) / np.dot(label, weight)
    assert measure(Calibration, *drawn) == pytest.approx(expected, rel=1e-9)


@law
@given(examples(min_size=1))
def test_accuracy_is_that_of_sklearn_at_one_half(drawn):
    prediction, label, weight = drawn
    expected = sklearn_metrics.accuracy_score(label, prediction > 0.5, sample_weight=weight)
    assert measure(Accuracy, *drawn) == pytest.approx(expected, rel=1e-9)


@law
@given(examples(prediction=reals, label=reals, min_size=1))
def test_rmse_and_mae_are_those_of_sklearn(drawn):
    prediction, label, weight = (None if column is None else column.astype(np.float64) for column in drawn)
    rmse = sklearn_metrics.root_mean_squared_error(label, prediction, sample_weight=weight)
    mae = sklearn_metrics.mean_absolute_error(label, prediction, sample_weight=weight)
    assert measure(RMSE, *drawn) == pytest.approx(rmse, rel=1e-9)
    assert measure(MAE, *drawn) == pytest.approx(mae, rel=1e-9)


whole = st.integers(-50, 50).map(float)


@law
@given(examples(prediction=whole, label=whole, min_size=2), st.integers(1, 39))
def test_r_squared_over_batches_is_that_of_sklearn_over_the_whole(drawn, cut):
    prediction, label, weight = drawn
    assume(np.ptp(label) > 0)
    expected = sklearn_metrics.r2_score(label.astype(np.float64), prediction, sample_weight=weight)
    metric = RSquared()
    for part in (slice(cut), slice(cut, None)):
        metric.update(prediction[part], label[part], None if weight is None else weight[part])
    assert metric.value() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_r_squared_keeps_its_digits_when_labels_are_large_and_close_together():
    label = np.float32(1e6) + np.arange(1000, dtype=np.float32) % 4
    prediction = label + np.float32(0.5)
    expected = 1 - 0.25 / np.var(label.astype(np.float64))
    metric = RSquared()
    for start in range(0, 1000, 7):
        metric.update(prediction[start : start + 7], label[start : start + 7])
    assert metric.value() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric_class", ALL)
def test_a_metric_without_examples_is_undefined(metric_class):
    nothing = np.zeros(0, np.float32)
    assert math.isnan(metric_class().value())
    assert math.isnan(measure(metric_class, nothing, nothing))
    assert math.isnan(measure(metric_class, nothing, nothing, nothing))


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize("metric_class", [AUC, NormalizedEntropy])
def test_ranking_and_normalized_entropy_are_undefined_while_labels_are_alike(metric_class, alike):
    prediction = np.float32([0, 0.1, 1])
    weight = np.float32([0.1, 0.7, 3])
    assert math.isnan(measure(metric_class, prediction, np.full(3, alike, np.float32), weight))


@law
@given(st.lists(st.floats(0.125, 9, width=32), min_size=1), st.floats(-1e6, 1e6, width=32))
def test_r_squared_is_undefined_while_labels_are_alike(weight, alike):
    label = np.full(len(weight), alike, np.float32)
    metric = RSquared()
    metric.update(label + 1, label, np.float32(weight))
    metric.update(label + 1, label)
    assert math.isnan(metric.value())


def test_calibration_is_undefined_while_no_label_is_positive():
    assert math.isnan(measure(Calibration, np.float32([0.5]), np.float32([0])))


@st.composite
def class_examples(draw):
    size, classes = draw(st.integers(1, 20)), draw(st.integers(2, 5))
    share = st.integers(0, 4)
    shares = np.array(
        draw(st.lists(st.lists(share, min_size=classes, max_size=classes), min_size=size, max_size=size))
    )
    prediction = ((shares + 0.25) / (shares + 0.25).sum(axis=1, keepdims=True)).astype(np.float32)
    label = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)), np.float32)
    return prediction, label, np.arange(1, size + 1, dtype=np.float32) if draw(st.booleans()) else None


@law
@given(class_examples())
def test_class_metrics_are_those_of_sklearn(drawn):
    prediction, label, weight = drawn
    chance, hit = narrow(prediction, label)
    whole = prediction.astype(np.float64)
    log_loss = sklearn_metrics.log_loss(
        label,
        whole / whole.sum(axis=1, keepdims=True),
        sample_weight=weight,
        labels=range(prediction.shape[1]),
    )
    accuracy = sklearn_metrics.accuracy_score(label, prediction.argmax(axis=1), sample_weight=weight)
    assert measure(ClassLogLoss, chance, hit, weight) == pytest.approx(log_loss, abs=1e-6)
    assert measure(ClassAccuracy, chance, hit, weight) == pytest.approx(accuracy, rel=1e-9)


@pytest.mark.parametrize("label", [-1, 2, 0.5])
def test_a_label_that_is_no_class_is_refused_by_its_value(label):
    with pytest.raises(ShapeError, match=f"from 0 to 1, got {float(label)}"):
        narrow(np.full((2, 2), 0.5, np.float32), np.float32([0, label]))


@law
@given(examples(min_size=1), examples(min_size=1))
def test_going_on_from_a_stored_state_gives_the_same_bits(before, after):
    for metric_class in ALL:
        straight, resumed = metric_class(), metric_class()
        straight.update(*before)
        resumed.load(stored(straight.state()))
        for metric in (straight, resumed):
            metric.update(*after)
        assert bits({"value": resumed.value()}) == bits({"value": straight.value()}), metric_class


@pytest.mark.parametrize("metric_class", ALL)
def test_a_state_is_not_changed_by_updates_that_follow(metric_class):
    metric = metric_class()
    metric.update(np.float32([0.25, 0.5]), np.float32([0, 1]))
    value, state = metric.value(), metric.state()
    metric.update(np.float32([0.125]), np.float32([1]))
    metric.load(state)
    assert metric.value() == value
    metric.update(np.float32([0.75]), np.float32([0]))
    restored = metric_class()
    restored.load(state)
    assert restored.value() == value


@law
@given(examples(), examples())
def test_merged_metrics_have_the_value_of_the_whole(one, other):
    for metric_class in ALL:
        merged, rest, whole = metric_class(), metric_class(), metric_class()
        merged.update(*one)
        rest.update(*other)
        merged.merge(rest)
        for part in (one, other):
            whole.update(*part)
        expected = pytest.approx(whole.value(), rel=1e-9, abs=1e-12, nan_ok=True)
        assert merged.value() == expected, metric_class

"""AUC, exact and binned, overall and within groups, against scikit-learn."""

import math

import numpy as np
import pytest
from evaluated import bits, examples, law, probabilities, weights
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from onstream.contracts import State
from onstream.errors import CheckpointError
from onstream.evaluate import AUC, exact_auc, grouped_auc


def both_classes(label):
    return bool(label.any()) and not bool(label.all())


def binned(prediction, label, weight=None):
    metric = AUC()
    metric.update(prediction, label, weight)
    return metric


@law
@given(examples(min_size=2))
def test_the_exact_auc_is_that_of_sklearn(drawn):
    prediction, label, weight = drawn
    assume(both_classes(label))
    expected = roc_auc_score(label, prediction, sample_weight=weight)
    assert exact_auc(*drawn) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("label", [[], [0.0, 0.0], [1.0, 1.0]])
def test_the_exact_auc_is_undefined_without_both_classes(label):
    prediction = np.linspace(0, 1, len(label), dtype=np.float32)
    assert math.isnan(exact_auc(prediction, np.float32(label)))


def test_a_class_of_no_weight_is_a_missing_class():
    drawn = np.float32([0.25, 0.5]), np.float32([0, 1]), np.float32([1, 0])
    assert math.isnan(exact_auc(*drawn))
    assert math.isnan(binned(*drawn).value())


# No two multiples of 1/512 share a bin.
apart = st.integers(0, 512).map(lambda step: step / 512)


@law
@given(examples(prediction=apart, min_size=2))
def test_the_binned_auc_is_exact_for_predictions_in_bins_of_their_own(drawn):
    prediction, label, weight = drawn
    assume(both_classes(label))
    expected = roc_auc_score(label, prediction, sample_weight=weight)
    assert binned(*drawn).value() == pytest.approx(expected, abs=1e-12)


# Steps of 2**-16 around 1/3 and 0.9 fall into shared bins, some of them across a bin's edge.
crowded = st.builds(
    lambda centre, step: centre + step * 2.0**-16, st.sampled_from([1 / 3, 0.9]), st.integers(-20, 20)
)


@law
@given(examples(prediction=crowded | probabilities, min_size=2))
def test_the_binned_auc_is_within_its_error_bound(drawn):
    _, label, _ = drawn
    assume(both_classes(label))
    metric = binned(*drawn)
    assert abs(metric.value() - exact_auc(*drawn)) <= metric.error_bound() + 1e-12


def test_predictions_that_share_a_bin_count_as_a_draw():
    metric = binned(np.float32([0.30001, 0.3]), np.float32([0, 1]))
    assert (metric.value(), metric.error_bound()) == (0.5, 0.5)
    assert exact_auc(np.float32([0.30001, 0.3]), np.float32([0, 1])) == 0.0


@law
@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2, unique=True))
def test_bins_never_turn_an_order_around(pair):
    low, high = sorted(pair)
    assert binned(np.float32([low, high]), np.float32([0, 1])).value() in (0.5, 1.0)


def test_ends_and_middle_of_the_range_are_told_apart():
    half = np.float32(0.5)
    around = [np.nextafter(half, np.float32(0)), half, np.nextafter(half, np.float32(1))]
    prediction = np.float32([0, 2.0**-24, *around, 1 - 2.0**-24, 1])
    for i in range(len(prediction) - 1):
        assert binned(prediction[i : i + 2], np.float32([0, 1])).value() == 1.0


@law
@given(st.lists(st.tuples(probabilities, st.booleans()), min_size=1, max_size=40), st.integers(1, 7))
def test_the_binned_auc_does_not_depend_on_batches_or_order(drawn, rows):
    prediction, label = np.array(drawn, np.float32).T
    metric = AUC()
    for start in range(0, len(label), rows):
        metric.update(prediction[::-1][start : start + rows], label[::-1][start : start + rows])
    assert bits({"auc": metric.value()}) == bits({"auc": binned(prediction, label).value()})


def test_an_auc_of_other_bins_is_refused():
    state = AUC().state()
    with pytest.raises(CheckpointError, match="an AUC of 7 bins"):
        AUC().load(State(state.arrays, {"num_bins": 7}))


rows = st.tuples(probabilities, st.booleans(), weights, st.sampled_from([0, 7, 2**64 - 1]))


@law
@given(st.lists(rows, min_size=1, max_size=60), st.booleans())
def test_the_grouped_auc_is_the_weighted_mean_of_the_auc_of_each_group(drawn, weighted):
    prediction, label, weight, _ = np.array(drawn, np.float64).T.astype(np.float32)
    groups = np.array([row[3] for row in drawn], np.uint64)
    aucs, shares = [], []
    for group in np.unique(groups):
        own = groups == group
        if both_classes(label[own]):
            aucs.append(
                roc_auc_score(label[own], prediction[own], sample_weight=weight[own] if weighted else None)
            )
            shares.append(weight[own].sum() if weighted else own.sum())
    expected = np.average(aucs, weights=shares) if aucs else math.nan
    found = grouped_auc(prediction, label, groups, weight if weighted else None)
    assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)

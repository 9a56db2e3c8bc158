"""A window holds the last examples, however they came."""

import numpy as np
import pytest
from evaluated import law, stored
from hypothesis import example, given
from hypothesis import strategies as st

from onstream.evaluate import Examples, Window

batches = st.lists(st.tuples(st.integers(0, 7) | st.integers(8, 45), st.booleans()), max_size=8)


def made(start, num_rows):
    """Return rows that are told apart by each of their columns."""
    rows = np.arange(start, start + num_rows)
    return (
        rows.astype(np.float32),
        (rows % 300).astype(np.float32),
        (rows + 0.5).astype(np.float32),
        {"user": rows.astype(np.uint64) + np.uint64(2**63)},
    )


def filled(size, batches, groups=("user",)):
    window, start = Window(size, groups), 0
    for num_rows, weighted in batches:
        prediction, label, weight, keys = made(start, num_rows)
        window.append(prediction, label, weight if weighted else None, keys)
        start += num_rows
    return window


def same(one, other):
    for left, right in zip(one[:3], other[:3], strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            assert left.dtype == right.dtype
            np.testing.assert_array_equal(left, right)
    assert one.groups.keys() == other.groups.keys()
    for name, keys in one.groups.items():
        np.testing.assert_array_equal(keys, other.groups[name])


@law
@given(st.integers(1, 20), batches)
@example(20, [(5, False), (3, True), (2, False)])
def test_a_window_holds_the_last_examples_oldest_first(size, batches):
    total = sum(num_rows for num_rows, _ in batches)
    prediction, label, weight, keys = made(0, total)
    for start, (num_rows, weighted) in zip(np.cumsum([0] + [n for n, _ in batches]), batches, strict=False):
        if not weighted:
            weight[start : start + num_rows] = 1
    window = filled(size, batches)
    found = window.examples()
    assert len(window) == len(found.label) == min(size, total)
    np.testing.assert_array_equal(found.prediction, prediction[-size:])
    np.testing.assert_array_equal(found.label, label[-size:])
    np.testing.assert_array_equal(found.groups["user"], keys["user"][-size:])
    if found.weight is None:
        assert not any(weighted for _, weighted in batches)
    else:
        np.testing.assert_array_equal(found.weight, weight[-size:])


@law
@given(st.integers(1, 20), batches)
def test_asking_changes_nothing(size, batches):
    asked, start = Window(size), 0
    for num_rows, _ in batches:
        asked.append(*made(start, num_rows)[:2])
        asked.examples().prediction[:] = -1
        start += num_rows
    same(asked.examples(), filled(size, [(n, False) for n, _ in batches], ()).examples())


@law
@given(st.integers(1, 20), batches, batches)
def test_a_resumed_window_goes_on_as_the_uninterrupted_one(size, before, after):
    straight = filled(size, before)
    resumed = Window(size, ("user",))
    resumed.load(stored(straight.state()))
    start = sum(num_rows for num_rows, _ in before)
    for num_rows, weighted in after:
        prediction, label, weight, keys = made(start, num_rows)
        for window in (straight, resumed):
            window.append(prediction, label, weight if weighted else None, keys)
        start += num_rows
    same(resumed.examples(), straight.examples())


def test_loading_replaces_what_the_window_held():
    window = filled(5, [(9, True)])
    empty = Window(5, ("user",))
    window.load(stored(empty.state()))
    same(window.examples(), empty.examples())


@pytest.mark.parametrize("label", [[0.0, 1.0, 255.0], [0.5], [-1.0], [256.0], []])
def test_labels_are_stored_as_bytes_only_where_that_loses_nothing(label):
    window = Window(8)
    window.append(np.zeros(len(label), np.float32), np.float32(label))
    state = stored(window.state())
    assert (state.arrays["label"].dtype == np.uint8) == (label in ([0.0, 1.0, 255.0], []))
    window.load(state)
    np.testing.assert_array_equal(window.examples().label, np.float32(label))


def test_a_smaller_window_keeps_the_newest_of_a_larger_one():
    small = Window(4, ("user",))
    small.load(filled(16, [(10, True)]).state())
    same(small.examples(), Examples(*made(6, 4)))


def test_a_window_of_other_groups_begins_empty():
    window = Window(16, ("item",))
    window.load(filled(16, [(10, False)]).state())
    assert len(window) == 0


def test_a_window_of_no_example_is_refused():
    with pytest.raises(ValueError, match="at least 1 example, got 0"):
        Window(0)

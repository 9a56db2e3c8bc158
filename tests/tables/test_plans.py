"""What was worked out ahead of a batch's keys, and a table that takes it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.contracts import TableSpec
from onstream.core import Plan
from onstream.errors import ShapeError
from onstream.tables import Adagrad, Constant, SeenTimes, Table, TableGroup

NAMES = st.lists(st.integers(0, 9), max_size=30)


def as_keys(values) -> np.ndarray:
    return np.asarray(values, np.uint64)


@pytest.mark.parametrize("dim", [1, 3, 16])
@given(steps=st.lists(NAMES, max_size=6), seed=st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_a_plan_changes_no_bit(dim, steps, seed):
    rng = np.random.default_rng(seed)
    planned, plain = (Table(dim, optimizer=Adagrad(), admission=SeenTimes(2)) for _ in range(2))
    for step in steps:
        keys = as_keys(step)
        grads = rng.standard_normal((len(keys), dim)).astype(np.float32)
        plan = Plan(keys)
        assert np.array_equal(planned.pull(keys, plan=plan), plain.pull(keys))
        planned.push(keys, grads, plan=plan)
        plain.push(keys, grads)
    assert np.array_equal(planned.rows().weights, plain.rows().weights)
    assert np.array_equal(planned.rows().count, plain.rows().count)


def test_plans_may_be_made_ahead_and_taken_in_any_order():
    keys = [as_keys(np.random.default_rng(seed).integers(1, 300, 200)) for seed in range(2)]
    plans = [Plan(k) for k in keys]
    planned, plain = Table(2), Table(2)
    for i, plan in ((0, plans[0]), (1, plans[1]), (0, plans[0])):
        ones = np.ones((len(keys[i]), 2), np.float32)
        planned.pull(keys[i], plan=plan)
        # Between a pull and its push: the rows of the plan must be found anew.
        planned.pull(keys[1 - i], plan=plans[1 - i])
        planned.push(keys[i], ones, plan=plan)
        plain.pull(keys[1 - i])
        plain.pull(keys[i])
        plain.push(keys[i], ones)
    every = as_keys(range(1, 300))
    assert np.array_equal(planned.pull(every, learn=False), plain.pull(every, learn=False))


def test_a_row_that_went_between_pull_and_push_is_not_moved_though_another_is_in_its_place():
    table = Table(1, initial=Constant(0.0))
    keys = as_keys(range(1, 50))
    plan = Plan(keys)
    table.pull(keys, plan=plan)
    # All rows go, and as many others take their places.
    everything = table.rows()
    others = Table(1, initial=Constant(0.0))
    others.pull(as_keys(range(100, 300)))
    table.load(replace(others.rows(), deleted=everything.keys))
    table.push(keys, np.ones((len(keys), 1), np.float32), plan=plan)
    assert len(table) == 200
    assert not table.rows().weights.any()


def test_a_plan_of_another_number_of_keys_is_an_error():
    table = Table(2)
    with pytest.raises(ShapeError, match=r"out has shape \(3, 2\), expected \(2, 2\)"):
        table.pull(as_keys([1, 2, 3]), plan=Plan(as_keys([1, 2])))
    with pytest.raises(ShapeError, match=r"grads has shape \(3, 2\), expected \(2, 2\)"):
        table.push(as_keys([1, 2, 3]), np.ones((3, 2), np.float32), plan=Plan(as_keys([1, 2])))


def test_a_group_plans_for_each_of_its_tables():
    specs = [TableSpec(name, dim, {}, (name,)) for name, dim in (("a", 1), ("b", 2))]
    keys = {"a": as_keys([1, 1]), "b": as_keys([4, 5, 6])}
    planned, plain = TableGroup(specs), TableGroup(specs)
    plans = planned.plan(keys)
    assert {name: len(plan) for name, plan in plans.items()} == {"a": 2, "b": 3}
    grads = {name: np.ones_like(rows) for name, rows in planned.pull(keys, now=1, plans=plans).items()}
    plain.pull(keys, now=1)
    planned.push(keys, grads, plans)
    plain.push(keys, grads)
    for name in keys:
        assert np.array_equal(planned[name].rows().weights, plain[name].rows().weights)

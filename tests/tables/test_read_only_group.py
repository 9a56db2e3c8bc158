"""Tables that are only read: what a replica holds of them."""

import numpy as np
import pytest

from onstream.contracts import TableSpec
from onstream.features import Features, Id, Label
from onstream.tables import Adagrad, Expire, Normal, SeenTimes, TableGroup

POLICY = {"optimizer": Adagrad(), "initial": Normal(0, 1), "admission": SeenTimes(2), "expiry": Expire("1d")}


def learned(now=86_400):
    """Return a group of which some rows exist, and the specs that a checkpoint tells of it."""
    group = TableGroup([TableSpec("t", 3, POLICY, ("a",))], seed=7)
    for keys in (np.arange(1, 50, dtype=np.uint64), np.arange(20, 70, dtype=np.uint64)):
        group.pull({"t": keys}, now=now)
        group.push({"t": keys}, {"t": np.ones((len(keys), 3), np.float32)})
    return group


def described(policy=POLICY):
    """Return a spec as it is made from a description, by names of policies alone."""
    declared = Features([Id("a", 3), Label("y")], defaults=policy).describe()
    [spec] = Features.restore(declared).layout.tables
    return TableSpec("t", spec.dim, spec.policy, spec.features)


@pytest.mark.parametrize("now", [86_400, 10 * 86_400])
def test_a_read_only_group_reads_as_the_one_that_learned(now):
    group = learned()
    copy = TableGroup([described()], seed=7, learn=False)
    copy.load("t", [group["t"].rows()])
    keys = {"t": np.arange(0, 100, dtype=np.uint64)}
    expected = group.pull(keys, now=now, learn=False)["t"]
    np.testing.assert_array_equal(copy.pull(keys, now=now, learn=False)["t"], expected)
    assert copy.num_rows() == group.num_rows() == {"t": 30}


def test_a_read_only_group_holds_no_optimizer_state():
    group = learned()
    copy = TableGroup([described()], seed=7, learn=False)
    copy.load("t", [group["t"].rows()])
    assert (group["t"].state_width, copy["t"].state_width) == (3, 0)


def test_a_table_that_is_cleared_begins_anew():
    group = learned()
    copy = TableGroup([described()], seed=7, learn=False)
    copy.load("t", [group["t"].rows()])
    copy.clear("t")
    empty = TableGroup([described()], seed=7, learn=False)
    keys = {"t": np.arange(0, 100, dtype=np.uint64)}
    assert len(copy["t"]) == 0
    np.testing.assert_array_equal(
        copy.pull(keys, now=86_400, learn=False)["t"], empty.pull(keys, now=86_400, learn=False)["t"]
    )

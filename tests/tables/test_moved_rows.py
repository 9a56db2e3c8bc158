"""Ids that move from chains of other names, of which several may know a key."""

import numpy as np

from onstream.contracts import TableSpec
from onstream.tables import Adagrad, Constant, SeenTimes, TableGroup

POLICY = {"optimizer": Adagrad(), "initial": Constant(0.0), "admission": SeenTimes(3)}
WAITING = "t.candidates"


def group():
    return TableGroup([TableSpec("t", 1, POLICY, ("a",))])


def cuts(*batches):
    """Return the cuts of a group that sees keys one batch after the other."""
    made, found = group(), []
    for keys in batches:
        made.pull({"t": np.array(keys, np.uint64)}, now=100)
        found.append(made.cut())
    return found


def waiting(found):
    return [cut[WAITING] for cut in found]


def test_ids_that_one_chain_admitted_wait_on_as_another_chain_has_them():
    first = cuts([1, 1, 2])
    second = cuts([1, 3], [1], [1])
    assert [key for cut in waiting(second) for key in cut.deleted.tolist()] == [1]
    moved = group()
    moved.adopt(WAITING, waiting(first))
    moved.adopt(WAITING, waiting(second))
    found = moved["t"].candidates()
    assert dict(zip(found.keys.tolist(), found.count.tolist(), strict=True)) == {1: 2, 2: 1, 3: 1}
    # They are news for the next checkpoint.
    assert sorted(moved.cut()[WAITING].keys.tolist()) == [1, 2, 3]

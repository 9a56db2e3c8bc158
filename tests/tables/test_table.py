"""The table against a dict, across threads, and through cuts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream import tables
from onstream.contracts import Delta
from onstream.errors import ShapeError
from onstream.tables import Constant, Normal, Table, Uniform
from tests.tables.reference import REFERENCES, ReferenceTable

OPTIMIZERS = [
    tables.SGD(lr=0.1),
    tables.SGD(lr=0.1, momentum=0.9),
    tables.Adagrad(lr=0.1, initial_accumulator=0.1),
    tables.RowwiseAdagrad(lr=0.1),
    tables.Adam(lr=0.05),
    tables.FTRL(lr=0.3, l1=0.05, l2=0.1),
    tables.GroupFTRL(lr=0.3, l1=0.01, l2=0.1, l21=0.05),
    tables.Slices((1, tables.FTRL(l1=0.2)), (4, tables.Adagrad())),
]


def as_keys(values) -> np.ndarray:
    return np.asarray(values, np.uint64)


def sorted_rows(table: Table) -> tuple[np.ndarray, ...]:
    rows = table.rows()
    order = np.argsort(rows.keys)
    return tuple(a[order] for a in (rows.keys, rows.seen, rows.count, rows.weights, rows.state))


def assert_equal_tables(one: Table, other: Table) -> None:
    for a, b in zip(sorted_rows(one), sorted_rows(other), strict=True):
        assert np.array_equal(a, b)


def test_every_optimizer_has_a_reference():
    assert {type(o) for o in OPTIMIZERS} >= set(REFERENCES)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
@given(steps=st.lists(st.lists(st.integers(0, 12), max_size=20), max_size=8), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_a_table_does_what_a_dict_of_rows_does(optimizer, steps, seed):
    rng = np.random.default_rng(seed)
    table = Table(5, optimizer=optimizer, initial=Uniform(-0.5, 0.5), seed=3, threads=2)
    model = ReferenceTable(5, optimizer, births=Table(5, optimizer=None, initial=Uniform(-0.5, 0.5), seed=3))
    for step in steps:
        keys = as_keys(step)
        grads = rng.standard_normal((len(keys), 5)).astype(np.float32)
        np.testing.assert_allclose(table.pull(keys), model.pull(keys), rtol=2e-4, atol=2e-5)
        table.push(keys, grads)
        model.push(keys, grads)
    assert len(table) == len(model.rows)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: o.kind)
def test_one_thread_and_many_give_the_same_bits(optimizer):
    rng = np.random.default_rng(0)
    several = [Table(5, optimizer=optimizer, threads=n) for n in (1, 2, 7)]
    for _ in range(3):
        keys = rng.zipf(1.3, 20_000).astype(np.uint64) % 5_000
        grads = rng.standard_normal((len(keys), 5)).astype(np.float32)
        pulled = [table.pull(keys) for table in several]
        assert np.array_equal(pulled[0], pulled[1]) and np.array_equal(pulled[0], pulled[2])
        for table in several:
            table.push(keys, grads)
    assert_equal_tables(several[0], several[1])
    assert_equal_tables(several[0], several[2])


@pytest.mark.parametrize("initial", [Constant(0.5), Uniform(-1, 2), Normal(1, 3)])
def test_new_rows_follow_from_key_and_seed_alone(initial):
    keys = as_keys(range(1, 20_001))
    forward, backward = Table(4, initial=initial, seed=5), Table(4, initial=initial, seed=5)
    rows = forward.pull(keys)
    assert np.array_equal(rows, backward.pull(keys[::-1])[::-1])
    other_seed = Table(4, initial=initial, seed=6).pull(keys)
    assert np.array_equal(rows, other_seed) == isinstance(initial, Constant)
    mean, std = {Constant: (0.5, 0), Uniform: (0.5, 3 / 12**0.5), Normal: (1, 3)}[type(initial)]
    assert abs(rows.mean() - mean) < 0.05 and abs(rows.std() - std) < 0.05


def test_an_unknown_key_reads_as_the_row_it_will_be_born_with():
    table = Table(4, initial=Normal())
    keys = as_keys([5, 6, 5])
    read = table.pull(keys, learn=False)
    assert len(table) == 0
    assert np.array_equal(read, table.pull(keys))


def test_key_zero_is_no_row():
    table = Table(3, optimizer=tables.SGD(lr=1.0), initial=Constant(1.0))
    keys = as_keys([0, 8, 0])
    assert table.pull(keys).tolist() == [[0] * 3, [1] * 3, [0] * 3]
    table.push(keys, np.ones((3, 3), np.float32))
    assert len(table) == 1 and table.pull(keys)[1].tolist() == [0] * 3


def test_gradients_of_a_repeated_key_are_summed_in_order_and_applied_once():
    table = Table(1, optimizer=tables.Adagrad(lr=1.0), initial=Constant(0.0))
    keys = as_keys([3, 3, 3])
    table.pull(keys)
    # In float32, (1e8 + 1) - 1e8 is 0: only this order gives it.
    table.push(keys, np.array([[1e8], [1.0], [-1e8]], np.float32))
    assert table.rows().state.tolist() == [[0.0]]


def test_a_push_without_its_pull_finds_the_rows_itself_and_makes_none():
    table = Table(2, optimizer=tables.SGD(lr=1.0), initial=Constant(0.0))
    table.pull(as_keys([1, 2, 3]))
    table.cut()
    table.push(as_keys([2, 9]), np.ones((2, 2), np.float32))
    assert table.pull(as_keys([1, 2]), learn=False).tolist() == [[0, 0], [-1, -1]]
    assert len(table) == 3 and table.cut().keys.tolist() == [2]


def test_a_cut_holds_what_was_touched_since_the_last_and_rebuilds_the_table():
    rng = np.random.default_rng(1)
    table, copy = Table(4), Table(4)
    for now in range(1, 6):
        keys = as_keys(rng.integers(1, 300, 200))
        table.pull(keys, now=now)
        table.push(keys, rng.standard_normal((200, 4)).astype(np.float32))
        delta = table.cut()
        assert set(delta.keys.tolist()) == set(keys.tolist())
        copy.load(delta)
        assert_equal_tables(table, copy)
    assert len(table.cut().keys) == 0
    assert len(copy.cut().keys) == 0
    copy.load(table.rows(), touched=True)
    assert len(copy.cut().keys) == len(table)


def test_a_cut_between_pull_and_push_loses_no_step():
    table, copy = Table(2), Table(2)
    keys = as_keys([4, 5])
    table.pull(keys)
    copy.load(table.cut())
    table.push(keys, np.ones((2, 2), np.float32))
    copy.load(table.cut())
    assert_equal_tables(table, copy)


def test_rows_of_a_cut_lie_by_partition_and_a_key_keeps_its_partition():
    table = Table(1)
    table.pull(as_keys(range(1, 1000)))
    first = table.cut()
    table.pull(as_keys(range(500, 1500)))
    second = table.cut()
    places = {}
    for delta in (first, second):
        for p in range(len(delta.bounds) - 1):
            for key in delta.keys[delta.bounds[p] : delta.bounds[p + 1]].tolist():
                assert places.setdefault(key, p) == p
    assert len(places) == 1499


def test_memory_grows_in_blocks_and_a_million_rows_are_exact():
    table = Table(2, initial=Uniform(-1, 1), optimizer=None)
    keys = as_keys(np.arange(1, 1_000_001))
    rows = table.pull(keys)
    assert len(table) == 1_000_000
    assert np.array_equal(table.pull(keys), rows)
    assert np.array_equal(Table(2, initial=Uniform(-1, 1), optimizer=None).pull(keys[-5:]), rows[-5:])
    # The row; its part of an index that has just grown; and of the one before, which is to become rows.
    assert table.size_bytes < 1_000_000 * (16 + 8 + 22 + 11)


def test_a_table_that_is_loaded_takes_no_more_memory_than_one_that_grew():
    # Loaded partition by partition, as checkpoints hold rows: each index grows to its end before the next begins.
    table = Table(1, initial=Constant(0.0))
    table.pull(as_keys(np.arange(1, 1_000_001)))
    loaded = Table(1, initial=Constant(0.0))
    loaded.load(table.rows())
    assert len(loaded) == 1_000_000
    assert loaded.size_bytes < 1.2 * table.size_bytes


def test_wrong_shapes_are_named():
    table = Table(4)
    with pytest.raises(ShapeError, match=r"grads has shape \(2, 3\), expected \(2, 4\)"):
        table.push(as_keys([1, 2]), np.ones((2, 3), np.float32))
    with pytest.raises(ShapeError, match="out has shape"):
        table.pull(as_keys([1, 2]), out=np.ones((3, 4), np.float32))
    empty = Delta(
        *(np.zeros(0, t) for t in (np.uint64, np.uint32, np.uint32)),
        *[np.zeros((0, 3), np.float32)] * 2,
        np.zeros(0, np.uint64),
        np.zeros(17, np.int64),
        np.zeros(17, np.int64),
    )
    with pytest.raises(ShapeError, match="weights has shape"):
        table.load(empty)


def test_sights_and_newest_time_are_counted():
    table = Table(1)
    table.pull(as_keys([1, 1, 2]), now=10)
    table.pull(as_keys([1]), now=7)
    table.pull(as_keys([2]), now=99, learn=False)
    keys, seen, count, _, _ = sorted_rows(table)
    assert (keys.tolist(), seen.tolist(), count.tolist()) == ([1, 2], [10, 10], [3, 1])

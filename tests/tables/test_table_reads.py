"""Reading a table without learning, beside those who change it."""

import threading

import numpy as np

from onstream.tables import SGD, Constant, Normal, SeenTimes, Table


def test_reading_gives_what_a_learning_pull_would():
    rng = np.random.default_rng(3)
    table = Table(dim=5, initial=Normal(0.0, 1.0), threads=3)
    known = rng.integers(1, 1 << 63, 20_000).astype(np.uint64)
    table.push(known, table.pull(known))
    keys = rng.permutation(
        np.concatenate([known, known[:99], rng.integers(0, 1 << 63, 7_000).astype(np.uint64)])
    )
    keys[::100] = 0
    read = table.pull(keys, learn=False)
    assert len(table) == len(np.unique(known))
    np.testing.assert_array_equal(read, table.pull(keys))


def test_reading_is_no_sight():
    table = Table(dim=1, initial=Constant(1.0), admission=SeenTimes(2))
    keys = np.array([7], np.uint64)
    table.pull(keys)
    table.pull(keys, learn=False)
    table.pull(keys, learn=False)
    assert len(table) == 0
    table.pull(keys)
    assert len(table) == 1


def test_a_push_after_a_read_moves_the_rows_of_the_pull_before():
    table = Table(dim=1, optimizer=SGD(lr=1.0), initial=Constant(0.0))
    keys = np.array([7, 9, 7], np.uint64)
    table.pull(keys)
    table.pull(np.array([9, 11], np.uint64), learn=False)
    table.push(keys, np.ones((3, 1), np.float32))
    assert table.pull(keys, learn=False).ravel().tolist() == [-2.0, -1.0, -2.0]


def test_readers_beside_a_writer_see_whole_rows():
    # Each step moves all 16 numbers of a row alike, so a row with two different ones was read by half.
    table = Table(dim=16, optimizer=SGD(lr=1.0), initial=Constant(0.0), threads=2)
    keys = np.arange(1, 5_001, dtype=np.uint64)
    table.pull(keys)
    done = threading.Event()
    torn = []

    def read():
        while not done.is_set():
            rows = table.pull(keys, learn=False)
            torn.append(bool((rows != rows[:, :1]).any()))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(200):
        table.push(keys, np.ones((len(keys), 16), np.float32))
    done.set()
    for reader in readers:
        reader.join()
    assert torn
    assert not any(torn)
    assert (table.pull(keys, learn=False) == -200).all()

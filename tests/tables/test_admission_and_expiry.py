"""When an id gets a row, and when it loses it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.errors import JobError
from onstream.tables import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    Chance,
    Constant,
    Expire,
    Normal,
    SeenTimes,
    Table,
    Uniform,
)


def as_keys(values) -> np.ndarray:
    return np.asarray(values, np.uint64)


@given(st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=12), st.integers(1, 5))
@settings(deadline=None)
def test_exact_admission_gives_a_row_at_the_kth_sight(batches, times):
    table = Table(2, admission=SeenTimes(times))
    sights: dict[int, int] = {}
    for batch in batches:
        table.pull(as_keys(batch))
        for key in batch:
            sights[key] = sights.get(key, 0) + 1
    admitted = {key: n for key, n in sights.items() if n >= times}
    rows = table.rows()
    assert dict(zip(rows.keys.tolist(), rows.count.tolist(), strict=True)) == admitted
    assert table.num_candidates == len(sights) - len(admitted)


def test_an_id_that_waits_reads_as_its_first_row_and_does_not_learn():
    table = Table(2, admission=SeenTimes(2), initial=Uniform(), optimizer=SGD(lr=1.0))
    first = table.pull(as_keys([5]))
    table.push(as_keys([5]), np.ones((1, 2), np.float32))
    assert np.array_equal(table.pull(as_keys([5])), first) and len(table) == 1
    table.push(as_keys([5]), np.ones((1, 2), np.float32))
    assert np.array_equal(table.pull(as_keys([5])), first - 1)


@given(st.lists(st.integers(1, 400), max_size=300), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_a_sketch_never_admits_late(sights, times):
    table = Table(1, admission=SeenTimes(times, sketch_bytes=1 << 16))
    for key in sights:
        table.pull(as_keys([key]))
    counts = np.bincount(sights, minlength=401)
    assert set(np.flatnonzero(counts >= times).tolist()) <= set(table.rows().keys.tolist())


def test_a_sketch_keeps_most_rare_ids_out_and_ages():
    table = Table(1, admission=SeenTimes(3, sketch_bytes=1 << 16))
    for start in range(0, 400_000, 4_000):
        table.pull(as_keys(np.arange(start + 1, start + 4_001)))
    # Seen once each, a hundred times more ids than cells: without ageing nearly all would be admitted by now.
    assert len(table) < 0.2 * 400_000
    assert table.num_candidates == 0


def test_chance_admits_about_its_share_and_frequent_ids_soon():
    table = Table(1, admission=Chance(0.1))
    keys = as_keys(np.arange(1, 20_001))
    table.pull(keys)
    assert 1_700 < len(table) < 2_300
    for _ in range(60):
        table.pull(keys)
    assert len(table) > 19_900


@pytest.mark.parametrize("admission", [SeenTimes(3), SeenTimes(3, sketch_bytes=1 << 14), Chance(0.2)])
def test_admission_goes_on_from_its_state_as_if_never_stopped(admission):
    rng = np.random.default_rng(0)
    batches = [as_keys(rng.integers(1, 2_000, 500)) for _ in range(10)]
    whole, first, second = (Table(1, admission=admission, threads=t) for t in (2, 1, 2))
    for batch in batches:
        whole.pull(batch)
    for batch in batches[:5]:
        first.pull(batch)
    second.load(first.cut())
    second.load_candidates(first.cut_candidates())
    second.load_state(first.state())
    for batch in batches[5:]:
        second.pull(batch)
    assert sorted(second.rows().keys.tolist()) == sorted(whole.rows().keys.tolist())
    assert second.num_candidates == whole.num_candidates


def test_a_row_past_its_time_reads_as_absent_and_is_dropped_at_the_next_sight():
    table = Table(1, expiry=Expire(10), initial=Constant(0.0), optimizer=SGD(lr=1.0))
    keys = as_keys([7])
    table.pull(keys, now=100)
    table.push(keys, np.ones((1, 1), np.float32))
    assert table.pull(keys, now=110, learn=False).tolist() == [[-1]]
    assert table.pull(keys, now=111, learn=False).tolist() == [[0]]
    assert table.pull(keys, now=111).tolist() == [[0]]
    assert table.rows().count.tolist() == [1]


def test_dropped_rows_are_deletions_of_the_next_cut_unless_they_came_back():
    table = Table(1, expiry=Expire(10))
    table.pull(as_keys([1, 2, 3]), now=0)
    table.cut()
    table.pull(as_keys([3]), now=50)
    assert table.evict(now=50) + 0 >= 0
    table.pull(as_keys([2]), now=51)
    delta = table.cut()
    assert sorted(delta.keys.tolist()) == [2, 3] and delta.deleted.tolist() == [1]
    assert delta.deleted_bounds[-1] == 1
    assert len(table.cut().deleted) == 0


@given(st.lists(st.tuples(st.lists(st.integers(1, 30), max_size=6), st.integers(0, 9)), max_size=25))
@settings(deadline=None)
def test_when_memory_is_reclaimed_changes_no_result(steps):
    lazy = Table(2, expiry=Expire(12), admission=SeenTimes(2))
    eager = Table(2, expiry=Expire(12), admission=SeenTimes(2))
    now = 0
    for keys, wait in steps:
        now += wait
        eager.evict(now=now)
        pulled = lazy.pull(as_keys(keys), now=now), eager.pull(as_keys(keys), now=now)
        assert np.array_equal(*pulled)
        for table in (lazy, eager):
            table.push(as_keys(keys), np.ones((len(keys), 2), np.float32))
    lazy.evict(now=now)
    eager.evict(now=now)
    assert sorted(lazy.rows().keys.tolist()) == sorted(eager.rows().keys.tolist())
    assert lazy.num_candidates == eager.num_candidates


@pytest.mark.parametrize("admission", [None, SeenTimes(2), SeenTimes(2, sketch_bytes=1 << 16)])
def test_memory_stays_bounded_on_an_endless_stream_of_new_ids(admission):
    table = Table(8, expiry=Expire(20), admission=admission)
    sizes = []
    for now in range(400):
        fresh = as_keys(np.arange(now * 2_000 + 1, now * 2_000 + 2_001))
        table.pull(np.concatenate([fresh, fresh]), now=now)
        table.push(fresh, np.ones((2_000, 8), np.float32))
        table.cut()
        table.cut_candidates()
        sizes.append(table.size_bytes)
    assert len(table) < 100_000
    assert max(sizes[200:]) <= 1.02 * max(sizes[:200])


def test_times_to_live_are_read_with_their_units():
    assert [Expire(t).seconds for t in (5, "90", "2m", "12h", "30d", " 1w ")] == [
        5,
        90,
        120,
        43_200,
        2_592_000,
        604_800,
    ]
    for wrong in ("soon", "0d", "-1d", 0, "1y", 1 << 40):
        with pytest.raises(JobError, match="expected seconds or a time such as"):
            Expire(wrong)


def test_settings_outside_their_range_are_refused():
    for make in (
        lambda: SeenTimes(0),
        lambda: SeenTimes(201),
        lambda: Chance(0.0),
        lambda: SGD(lr=0),
        lambda: SGD(lr=-1.0),
        lambda: SeenTimes(2, sketch_bytes=1),
    ):
        with pytest.raises(JobError):
            make()


def test_rows_that_no_cut_has_told_of_leave_no_deletions():
    table = Table(1, expiry=Expire(10), admission=SeenTimes(2))
    for now in range(0, 500, 5):
        keys = as_keys(np.arange(now * 100 + 1, now * 100 + 101))
        table.pull(np.concatenate([keys, keys]), now=now)
    table.evict(now=1_000)
    assert len(table.cut().deleted) == 0
    assert len(table.cut_candidates().deleted) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: SeenTimes(2.5),
        lambda: Uniform("a", 1),
        lambda: Uniform(1.0, -1.0),
        lambda: Normal(std=-1.0),
        lambda: Constant(float("nan")),
        lambda: Adagrad(eps=0.0),
        lambda: FTRL(beta=0.0),
        lambda: Adam(beta1=1.0),
        lambda: SGD(lr=float("inf")),
        lambda: SGD(momentum=1.0),
    ],
)
def test_settings_that_could_make_a_row_not_finite_are_refused(make):
    with pytest.raises(JobError, match="must"):
        make()

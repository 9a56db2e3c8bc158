from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from checkpointed import PARTITIONS, apply, row, to_delta
from hypothesis import given
from hypothesis import strategies as st

from onstream.checkpoints import LocalStore, TableShape, read_segment, write_segment
from onstream.contracts import Delta
from onstream.errors import CheckpointError, DamagedError, ShapeError

SHAPE = TableShape("user", 2, 1, PARTITIONS)
ROWS = {k: row(k % 100) for k in (1, 2, 3, 4, 9, 2**64 - 1)}


keys = st.integers(0, 2**64 - 1)


@given(
    rows=st.dictionaries(keys, st.integers(0, 2**20), max_size=40),
    deleted=st.sets(keys, max_size=20),
    dim=st.integers(0, 3),
    width=st.integers(0, 3),
    partitions=st.integers(1, 5),
)
def test_a_segment_reads_back_as_the_delta_partition_by_partition(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[int, int],
    deleted: set[int],
    dim: int,
    width: int,
    partitions: int,
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "property")
    deleted -= set(rows)
    delta = to_delta({k: row(v, dim, width) for k, v in rows.items()}, deleted, dim, width, partitions)
    entry = write_segment(store, "s", delta, table="user")
    assert (entry.rows, entry.deleted) == (len(rows), len(deleted))

    parts = list(read_segment(store, entry, TableShape("user", dim, width, partitions)))
    for name in ("keys", "seen", "count", "weights", "state", "deleted"):
        back = np.concatenate([getattr(part, name) for part in parts])
        assert back.dtype == getattr(delta, name).dtype
        np.testing.assert_array_equal(back, getattr(delta, name))
    for p, part in enumerate(parts):
        assert part.bounds[p + 1] - part.bounds[p] == len(part.keys) == part.bounds[-1]
        assert part.deleted_bounds[p + 1] - part.deleted_bounds[p] == len(part.deleted)
        assert set((part.keys % np.uint64(partitions)).tolist()) <= {p}


def test_size_and_checksum_are_those_of_the_file(store: LocalStore) -> None:
    entry = write_segment(store, "s", to_delta(ROWS, [5]), table="user")
    data = (store.root / "s").read_bytes()
    assert (entry.size_bytes, entry.checksum) == (len(data), xxhash.xxh3_128_hexdigest(data))


def test_the_file_is_an_arrow_file_that_pyarrow_alone_reads(store: LocalStore) -> None:
    write_segment(store, "s", to_delta({1: row(10), 5: row(20)}, [6]), table="user")
    with pa.memory_map(str(store.root / "s")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.to_pylist() == [
        {"key": 1, "deleted": False, "seen": 10, "count": 11, "weights": [10, 11], "state": [-10]},
        {"key": 5, "deleted": False, "seen": 20, "count": 21, "weights": [20, 21], "state": [-20]},
        {"key": 6, "deleted": True, "seen": 0, "count": 0, "weights": [0, 0], "state": [0]},
    ]
    assert table.schema.metadata == {
        b"onstream.segment": b"1",
        b"onstream.table": b"user",
        b"onstream.dim": b"2",
        b"onstream.width": b"1",
        b"onstream.partitions": b"4",
    }


def test_rows_are_read_without_a_copy(store: LocalStore) -> None:
    entry = write_segment(store, "s", to_delta({k: row(k) for k in range(5000)}), table="user")
    before = pa.total_allocated_bytes()
    parts = list(read_segment(store, entry, SHAPE))
    assert not any(
        a.flags.owndata for part in parts for a in (part.keys, part.weights, part.state, part.seen)
    )
    # Arrow keeps the metadata of record batches, not their rows.
    assert pa.total_allocated_bytes() - before < entry.size_bytes / 20


def test_columns_that_are_not_asked_for_read_as_zeros_that_take_no_memory(store: LocalStore) -> None:
    entry = write_segment(store, "s", to_delta(ROWS, [5]), table="user")
    parts = list(read_segment(store, entry, SHAPE, columns=["weights"]))
    rows = apply({}, parts)
    assert rows == {k: (0, 0, weights, (0.0,)) for k, (_, _, weights, _) in ROWS.items()}
    assert [part.deleted.tolist() for part in parts] == [[], [5], [], []]
    assert all(part.seen.strides == (0,) and part.state.strides == (0, 0) for part in parts)


def test_arrays_of_other_types_and_orders_are_written_as_declared(store: LocalStore) -> None:
    delta = to_delta(ROWS)
    odd = replace(
        delta, weights=np.asfortranarray(delta.weights, np.float64), seen=delta.seen.astype(np.int64)
    )
    entry = write_segment(store, "s", odd, table="user")
    assert apply({}, read_segment(store, entry, SHAPE)) == ROWS


@pytest.mark.parametrize(
    "change",
    [
        {"weights": np.zeros((5, 2), np.float32)},
        {"state": np.zeros(6, np.float32)},
        {"seen": np.zeros(5, np.uint32)},
        {"count": np.zeros((6, 1), np.uint32)},
        {"bounds": np.array([0, 1, 2, 3, 5])},
        {"bounds": np.array([0, 3, 2, 3, 6])},
        {"bounds": np.array([1, 1, 2, 3, 6])},
        {"bounds": np.array([0, 6])},
        {"deleted_bounds": np.array([0, 0, 0, 0, 1])},
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(store: LocalStore, change: dict[str, Any]) -> None:
    with pytest.raises(ShapeError, match="table 'user'"):
        write_segment(store, "s", replace(to_delta(ROWS), **change), table="user")
    assert store.names("") == []


@pytest.mark.parametrize(
    "shape",
    [
        replace(SHAPE, table="item"),
        replace(SHAPE, dim=3),
        replace(SHAPE, dim=0),
        replace(SHAPE, width=0),
        replace(SHAPE, partitions=8),
    ],
)
@pytest.mark.parametrize("columns", [None, (), ("weights",)])
def test_a_segment_of_another_shape_is_damage(
    store: LocalStore, shape: TableShape, columns: tuple[str, ...] | None
) -> None:
    entry = write_segment(store, "s", to_delta(ROWS), table="user")
    with pytest.raises(DamagedError, match="'s'"):
        read_segment(store, entry, shape, columns=columns)


def arrow_file(*batches: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def rewritten(change: Callable[[pa.RecordBatch], pa.RecordBatch]) -> Callable[[bytes], bytes]:
    def rewrite(data: bytes) -> bytes:
        reader = pa.ipc.open_file(data)
        return arrow_file(*(change(reader.get_batch(i)) for i in range(reader.num_record_batches)))

    return rewrite


def flagged(batch: pa.RecordBatch) -> pa.RecordBatch:
    flags = [i == 0 for i in range(batch.num_rows)]
    return batch.set_column(1, batch.schema.field(1), pa.array(flags))


def unflagged(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(1, batch.schema.field(1), pa.array([None] * batch.num_rows, pa.bool_()))


def nulled(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(2, batch.schema.field(2), pa.array([None] * batch.num_rows, pa.uint32()))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: b"not an arrow file",
        lambda data: data[:-20],
        lambda data: data[: len(data) // 2] + data[len(data) // 2 + 8 :],
        lambda data: arrow_file(pa.record_batch({"key": [1]})),
        lambda data: arrow_file(pa.ipc.open_file(data).get_batch(0)),
        lambda data: arrow_file(*[pa.ipc.open_file(data).get_batch(0)] * (PARTITIONS + 1)),
        rewritten(flagged),
        rewritten(unflagged),
        rewritten(nulled),
    ],
)
def test_a_file_that_is_no_such_segment_is_damage_even_under_a_fresh_checksum(
    store: LocalStore, change: Callable[[bytes], bytes]
) -> None:
    entry = write_segment(store, "s", to_delta(ROWS), table="user")
    data = change((store.root / "s").read_bytes())
    (store.root / "s").write_bytes(data)
    forged = replace(entry, size_bytes=len(data), checksum=xxhash.xxh3_128_hexdigest(data))
    with pytest.raises(DamagedError, match="'s'"):
        list(read_segment(store, forged, SHAPE))


@given(st.data())
def test_a_changed_byte_never_crashes_even_where_checksums_are_not_checked(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "changed")
    entry = write_segment(store, "s", to_delta(ROWS, [5]), table="user")
    content = bytearray((store.root / "s").read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (store.root / "s").write_bytes(content)
    with pytest.raises(DamagedError, match="checksum"):
        read_segment(store, entry, SHAPE)
    try:
        deltas: list[Delta] = list(read_segment(store, entry, SHAPE, verify=False))
    except DamagedError as error:
        assert "'s'" in str(error)
    else:
        apply({}, deltas)


def test_a_write_that_the_store_refuses_leaves_no_file(store: LocalStore) -> None:
    with pytest.raises(CheckpointError):
        write_segment(store, "../s", to_delta(ROWS), table="user")
    assert store.names("") == []

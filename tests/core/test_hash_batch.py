"""Hashing of many columns of a record batch at once."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream import core
from onstream.errors import ShapeError

VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=5, max_size=5),
    st.lists(st.one_of(st.none(), st.text(max_size=20)), min_size=5, max_size=5),
)


def hash_all(batch: pa.RecordBatch, columns: list[int], places: list[int], width: int):
    out = np.zeros((batch.num_rows, width), np.uint64)
    salts = np.arange(11, 11 + len(columns), dtype=np.uint64)
    done = core.hash_batch(batch, np.array(columns, np.int32), salts, np.array(places, np.int32), out)
    return done, out


def hash_each(batch: pa.RecordBatch, columns: list[int], places: list[int], width: int):
    out = np.zeros((batch.num_rows, width), np.uint64)
    for i, (column, place) in enumerate(zip(columns, places, strict=True)):
        assert core.hash_column(batch.column(column), 11 + i, out[:, place]) is None
    return out


@given(st.lists(VALUES, min_size=1, max_size=4), st.data())
def test_a_batch_hashes_like_its_columns_one_by_one(values, data):
    batch = pa.record_batch({f"c{i}": pa.array(column) for i, column in enumerate(values)})
    batch = batch.slice(data.draw(st.integers(0, 5)))
    columns = data.draw(st.permutations(range(len(values))))
    places = data.draw(st.permutations(range(len(values))))
    done, out = hash_all(batch, columns, places, len(values))
    assert done
    np.testing.assert_array_equal(out, hash_each(batch, columns, places, len(values)))


@pytest.mark.parametrize(
    "column", [pa.array([1.5, 2.0]), pa.array(["x" * 70_000, "y"]), pa.array([[1], [2]])], ids=str
)
def test_a_column_that_is_not_wholly_ids_is_told(column):
    batch = pa.record_batch({"fine": pa.array([1, 2]), "other": column})
    assert hash_all(batch, [0], [0], 1)[0]
    assert not hash_all(batch, [0, 1], [0, 1], 2)[0]


@pytest.mark.parametrize(("columns", "places"), [([2], [0]), ([-1], [0]), ([0], [1]), ([0], [-1])])
def test_columns_and_places_that_are_not_there_are_refused(columns, places):
    batch = pa.record_batch({"a": [1], "b": [2]})
    with pytest.raises(ShapeError, match="no column"):
        hash_all(batch, columns, places, 1)


def test_an_output_of_other_length_is_refused():
    batch = pa.record_batch({"a": [1]})
    with pytest.raises(ShapeError, match="out"):
        core.hash_batch(
            batch,
            np.zeros(1, np.int32),
            np.zeros(1, np.uint64),
            np.zeros(1, np.int32),
            np.zeros((2, 1), np.uint64),
        )

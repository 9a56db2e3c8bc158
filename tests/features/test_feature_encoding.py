import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from encoded import Spot, encode, keys_of, reasons, rows
from hypothesis import given
from hypothesis import strategies as st

from onstream.contracts import Reject
from onstream.features import EventTime, Features, Group, Id, IdList, Label, Number, Tensor, Weight


def everything():
    return Features(
        [
            Id("user"),
            IdList("tags"),
            IdList("last", pooling="pad", length=2),
            Number("price", log=True),
            Number("age", bounds=[18, 65]),
            Tensor("vector", (2,)),
            Group("user"),
            Weight("weight"),
            EventTime("time"),
            Label("y"),
            Label("rating", "real", required=False),
        ]
    )


EXAMPLE = st.fixed_dictionaries(
    {
        "user": st.none() | st.text(max_size=5),
        "tags": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
        "last": st.none() | st.lists(st.integers(0, 9), max_size=3),
        "price": st.none() | st.floats(),
        "age": st.none() | st.integers(0, 120),
        "vector": st.none() | st.lists(st.floats(width=32), min_size=1, max_size=3),
        "weight": st.none() | st.floats(-1, 5),
        "time": st.none() | st.integers(-5, 2**33),
        "y": st.none() | st.integers(0, 2),
        "rating": st.none() | st.floats(-5, 5),
    }
)
SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "tags": pa.list_(pa.string()),
        "last": pa.list_(pa.int64()),
        "price": pa.float64(),
        "age": pa.int64(),
        "vector": pa.list_(pa.float32()),
        "weight": pa.float64(),
        "time": pa.int64(),
        "y": pa.int64(),
        "rating": pa.float64(),
    }
)
GOOD = {
    "user": "u",
    "tags": ["a", "b"],
    "last": [1],
    "price": 1.0,
    "age": 20,
    "vector": [1.0, 2.0],
    "weight": 2.0,
    "time": 100,
    "y": 1,
    "rating": 0.5,
}
FEATURES = everything()


def contents(features, batches):
    """All that batches hold, row by row, whatever the cuts between them."""
    found = []
    for batch in batches:
        columns = [keys_of(features, batch, name) for name in ("user", "tags", "last", "age")]
        columns += [batch.numbers.tolist(), batch.tensors["vector"].tolist(), batch.weights.tolist()]
        columns += [
            batch.groups["user"].tolist(),
            batch.labels["y"].tolist(),
            batch.labels["rating"].tolist(),
        ]
        found += [repr(row) for row in zip(*columns, strict=True)]
    return found


@given(st.lists(EXAMPLE, max_size=8), st.lists(st.integers(0, 8), max_size=3))
def test_what_is_encoded_does_not_depend_on_where_the_stream_is_cut(examples, cuts):
    table = pa.RecordBatch.from_pylist(examples, SCHEMA)
    edges = sorted({0, *(min(cut, len(examples)) for cut in cuts), len(examples)})
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    whole = encode(FEATURES, table)
    joined = encode(FEATURES, *pieces)
    apart = [encode(FEATURES, piece) for piece in pieces]
    assert contents(FEATURES, [joined]) == contents(FEATURES, [whole])
    assert contents(FEATURES, apart) == contents(FEATURES, [whole])
    assert joined.rejects == whole.rejects
    assert [r.reason for batch in apart for r in batch.rejects] == [r.reason for r in whole.rejects]
    assert whole.num_rows + len(whole.rejects) == len(examples)


@given(st.lists(EXAMPLE, max_size=6))
def test_bad_rows_leave_no_trace_in_the_others(examples):
    table = pa.RecordBatch.from_pylist(examples, SCHEMA)
    whole = encode(FEATURES, table)
    gone = {reject.position for reject in whole.rejects}
    good = [example for row, example in enumerate(examples) if row not in gone]
    alone = encode(FEATURES, pa.RecordBatch.from_pylist(good, SCHEMA))
    assert alone.rejects == ()
    assert contents(FEATURES, [whole]) == contents(FEATURES, [alone])


def test_arrays_have_their_declared_types_and_are_contiguous():
    batch = encode(FEATURES, pa.RecordBatch.from_pylist([GOOD, GOOD], SCHEMA))
    arrays = [
        (batch.keys["d16"], np.uint64, (2 * 2 + 4 + 2 * 2,)),
        (batch.offsets["tags"], np.int64, (3,)),
        (batch.numbers, np.float32, (2, 1)),
        (batch.tensors["vector"], np.float32, (2, 2)),
        (batch.labels["y"], np.float32, (2,)),
        (batch.weights, np.float32, (2,)),
        (batch.groups["user"], np.uint64, (2,)),
    ]
    for array, dtype, shape in arrays:
        assert array.dtype == dtype
        assert array.shape == shape
        assert array.flags.c_contiguous


def test_an_empty_batch_is_a_batch():
    features = everything()
    for empty in (encode(features), encode(features, pa.RecordBatch.from_pylist([], SCHEMA))):
        assert (empty.num_rows, empty.rejects, empty.now) == (0, (), 0)
        assert empty.keys["d16"].tolist() == []
        assert empty.offsets["tags"].tolist() == [0]
        assert empty.tensors["vector"].shape == (0, 2)


def test_a_batch_of_bad_rows_is_empty_and_has_a_reject_for_each():
    bad = [GOOD | {"y": 2}, GOOD | {"y": None}, GOOD | {"vector": [1.0]}]
    batch = encode(FEATURES, pa.RecordBatch.from_pylist(bad, SCHEMA))
    assert batch.num_rows == 0
    assert batch.numbers.shape == (0, 1)
    assert batch.offsets["tags"].tolist() == [0]
    assert reasons(batch) == [
        (0, "label 'y': expected 0 or 1"),
        (1, "label 'y': missing"),
        (2, "column 'vector': expected 2 finite numbers"),
    ]


def test_a_reject_names_the_place_of_its_row_and_the_first_fault_as_declared():
    features = Features([Id("a"), Number("b"), Label("y")])
    first = rows(a=[1.0, 2.5], b=["x", "x"])
    second = rows(b=["7", "?"], a=["ok", "ok"])
    spots = [Spot("p", np.array([10, 25])), Spot("q", np.array([3, 4]))]
    before = Reject("p", 0, "not JSON", "{")
    batch = features.encode([first, second], spots, {"p": 30, "q": 5}, [before])
    assert batch.rejects == (
        before,
        Reject("p", 10, "column 'b': not a number", "x"),
        Reject("p", 25, "column 'a': not a whole number", "2.5"),
        Reject("q", 4, "column 'b': not a number", "?"),
    )
    assert batch.positions == {"p": 30, "q": 5}
    assert batch.numbers.tolist() == [[7.0]]


def test_columns_may_change_their_type_and_order_and_others_may_come():
    features = Features([Id("user"), Number("price"), IdList("tags", separator="|"), Label("y")])
    parquet = pa.RecordBatch.from_pydict({"user": [7], "price": [1.5], "tags": [[1, 2]], "y": [True]})
    text = pa.RecordBatch.from_pydict(
        {"y": ["1"], "new": [{"a": 1}], "tags": ["1|2"], "price": ["1.5"], "user": ["7"]}
    )
    batch = encode(features, parquet, text)
    assert batch.rejects == ()
    for name in ("user", "tags"):
        keys = keys_of(features, batch, name)
        assert keys[0] == keys[1]
    assert batch.numbers.tolist() == [[1.5], [1.5]]
    assert batch.labels["y"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("column", ["user", "tags", "price", "vector", "weight", "time", "y", "rating"])
def test_a_missing_column_rejects_the_rows_of_its_record_batch_only(column):
    whole = pa.RecordBatch.from_pylist([GOOD], SCHEMA)
    without = pa.RecordBatch.from_pylist([GOOD, GOOD], SCHEMA).drop_columns([column])
    batch = encode(FEATURES, without, whole)
    assert batch.num_rows == 1
    assert reasons(batch) == [(row, f"missing column {column!r}") for row in (0, 1)]
    assert contents(FEATURES, [batch]) == contents(FEATURES, [encode(FEATURES, whole)])


def test_a_column_that_is_there_twice_is_not_chosen_from():
    twice = pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2]), pa.array([1])], ["u", "u", "y"])
    batch = encode(Features([Id("u"), Label("y")]), twice)
    assert reasons(batch) == [(0, "column 'u': there are several of this name")]


def test_what_a_reject_holds_is_shortened():
    batch = encode(Features([Number("x"), Label("y")]), rows(x=["z" * 1000]))
    assert batch.rejects[0].value == "z" * 200


# ---------------------------------------------------------------------------------------- predict


def test_to_predict_only_features_are_needed():
    features = everything()
    bare = pa.RecordBatch.from_pylist([GOOD], SCHEMA)
    bare = bare.drop_columns(["y", "rating", "weight", "time"])
    batch = encode(features, bare, learn=False)
    assert batch.rejects == ()
    assert math.isnan(batch.labels["y"][0])
    assert batch.weights.tolist() == [1.0]
    assert batch.now == 0


def test_to_predict_labels_and_weights_are_read_where_they_can_be():
    features = everything()
    examples = [
        GOOD,
        GOOD | {"y": 2, "weight": -1.0, "time": 2**33, "rating": math.inf},
        GOOD | {"y": None, "weight": None, "time": None, "rating": None},
    ]
    batch = encode(features, pa.RecordBatch.from_pylist(examples, SCHEMA), learn=False)
    assert batch.rejects == ()
    np.testing.assert_array_equal(batch.labels["y"], [1.0, math.nan, math.nan])
    np.testing.assert_array_equal(batch.labels["rating"], [0.5, math.nan, math.nan])
    assert batch.weights.tolist() == [2.0, 1.0, 1.0]
    assert batch.now == 100


def test_to_predict_a_label_of_a_strange_type_is_no_label():
    features = Features([Id("u"), Group("g"), Label("y")])
    batch = encode(features, rows(u=[1], g=[[1]], y=[{"a": 1}]), learn=False)
    assert batch.num_rows == 1
    assert math.isnan(batch.labels["y"][0])
    missing = encode(features, pa.RecordBatch.from_pydict({"u": [1]}), learn=False)
    assert batch.groups["g"].tolist() == missing.groups["g"].tolist() != [0]


def test_to_predict_a_bad_feature_is_still_a_reject():
    batch = encode(
        FEATURES, pa.RecordBatch.from_pylist([GOOD, GOOD | {"price": math.inf}], SCHEMA), learn=False
    )
    assert reasons(batch) == [(1, "column 'price': infinite or too large for float32")]


# ---------------------------------------------------------------------------------------- preview


def test_a_preview_shows_good_rows_as_they_are_read_and_bad_ones_with_the_reason():
    features = everything()
    examples = [GOOD, GOOD | {"y": 5}, GOOD | {"tags": None, "last": [1, 2, 3]}, GOOD]
    shown = features.preview(pa.RecordBatch.from_pylist(examples, SCHEMA), 3)
    assert shown[1] == {"rejected": "label 'y': expected 0 or 1", "value": "5"}
    first, third = shown[0], shown[2]
    batch = encode(features, pa.RecordBatch.from_pylist([GOOD], SCHEMA))

    def text(name):
        keys = keys_of(features, batch, name)[0]
        return " ".join(f"{key:016x}" for key in (keys if isinstance(keys, list) else [keys]) if key)

    assert first == {
        "user": f"key {text('user')} in d16",
        "tags": f"keys {text('tags')} in d16",
        "last": f"keys {text('last')} in d16",
        "price": pytest.approx(math.log(2)),
        "age": f"key {text('age')} in d16",
        "vector": "2 from 1 to 2",
        "y": 1.0,
        "rating": 0.5,
        "weight": 2.0,
    }
    assert third["tags"] == "keys none in d16"
    assert len(third["last"].split()) == 5
    assert third["age"] == first["age"]
    assert len(shown) == 3


def test_a_preview_changes_nothing():
    features = Features([Number("x", standardize=True), Label("y")])
    features.preview(rows(x=[5.0, 7.0]), 2)
    assert features.state().arrays["counts"].tolist() == [0.0]

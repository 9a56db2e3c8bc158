"""Features for learners that take plain values instead of rows of tables."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from onstream import EventTime, Group, Id, IdList, Label, Number, Tensor
from onstream.features import Features
from onstream.streams import Place

DECLARED = [
    Id("user"),
    IdList("tags", separator="|"),
    IdList("last", pooling="pad", length=2, column="seen"),
    Number("price"),
    Number("age", bounds=[18, 65]),
    Tensor("pixels", (1, 2), scale=0.5),
    Label("click"),
]


def rows(*dicts):
    return pa.RecordBatch.from_pylist(list(dicts))


def encode(features, batch, *, learn=True):
    return features.encode(
        [batch], [Place("p", np.arange(batch.num_rows))], {"p": batch.num_rows}, learn=learn
    )


def row(**changes):
    usual = {
        "user": 7,
        "tags": "a|b",
        "seen": [1, 2, 3],
        "price": 0.1,
        "age": 30,
        "pixels": [1, 2],
        "click": 1,
    }
    return usual | changes


def test_ids_are_texts_and_numbers_as_they_were_read():
    batch = encode(
        Features(DECLARED, plain=True), rows(row(), row(user=None, tags=None, age=None, price=None))
    )
    assert batch.columns == {
        "user": ["7", None],
        "tags": [["a", "b"], []],
        "last": [["1", "2"], ["1", "2"]],
        "price": [0.1, 0.0],
        "age": [1, None],
        "pixels": [[0.5, 1.0], [0.5, 1.0]],
    }
    assert batch.labels["click"].tolist() == [1, 1]


def test_there_are_no_tables_and_no_keys():
    features = Features(DECLARED, plain=True)
    assert features.layout.tables == ()
    assert [field.kind for field in features.layout.fields] == [
        "id",
        "list",
        "list",
        "number",
        "id",
        "tensor",
    ]
    assert encode(features, rows(row())).keys == {}


def test_others_get_no_columns():
    assert encode(Features(DECLARED), rows(row())).columns is None


def test_numbers_keep_their_digits_and_transforms_apply():
    features = Features([Number("x", standardize=True), Number("y", log=True), Label("click")], plain=True)
    encode(features, rows(*({"x": x, "y": 0, "click": 0} for x in (1.0, 2.0, 6.0))))
    batch = encode(features, rows({"x": 4.1, "y": 9.3, "click": 0}))
    assert batch.columns["x"] == [pytest.approx((4.1 - 3) / np.std([1, 2, 6]), rel=1e-15)]
    assert batch.columns["y"] == [np.log1p(9.3)]
    assert batch.numbers.dtype == np.float32


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([7, None]), ["7", None]),
        (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
        (pa.array([1.0, None, float("nan"), -0.0]), ["1", None, None, "0"]),
        (pa.array([Decimal("5.00"), None]), ["5", None]),
        (pa.array([None, None]), [None, None]),
        (pa.array(["x", None]).dictionary_encode(), ["x", None]),
        (pa.array([datetime.date(2024, 2, 1)]), ["2024-02-01"]),
        (pa.array([b"ok", b"\xff"]), ["ok", "\\xff"]),
        (pa.array([True, False, None]), ["1", "0", None]),
        (pa.array([b"ok", b"\xff"]).view(pa.string()), ["ok", "\\xff"]),
    ],
)
def test_ids_of_any_type_become_plain(array, expected):
    features = Features([Id("user"), Label("click")], plain=True)
    batch = pa.RecordBatch.from_arrays([array, pa.array([1] * len(array))], ["user", "click"])
    assert encode(features, batch).columns["user"] == expected


def test_what_is_no_id_is_a_reject_here_too():
    bad = rows(row(user=1.5), row(user=2.0), row(user=3.0, tags="a|" + "b" * 65_537))
    batch = encode(Features(DECLARED, plain=True), bad)
    assert batch.columns["user"] == ["2"]
    assert [reject.reason for reject in batch.rejects] == [
        "column 'user': not a whole number",
        "column 'tags': longer than 65536 bytes",
    ]
    usual = encode(Features(DECLARED), bad)
    assert usual.rejects == batch.rejects


def test_a_description_brings_them_back():
    declared = [*DECLARED, EventTime("at"), Group("user")]
    features = Features(declared, plain=True)
    again = Features.restore(features.describe())
    assert again.layout == features.layout
    batch = rows(row())
    assert encode(again, batch, learn=False).columns == encode(features, batch, learn=False).columns
    assert "plain" not in Features(declared).describe()


def test_a_preview_shows_the_values():
    shown = Features(DECLARED, plain=True).preview(rows(row(user="Ann")), 1)
    assert shown[0]["user"] == "Ann"
    assert shown[0]["tags"] == ["a", "b"]

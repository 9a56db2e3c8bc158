import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from encoded import encode, keys_of, reasons, rows
from hypothesis import given
from hypothesis import strategies as st

from onstream.core import hash_value, salt
from onstream.features import Features, Group, Id, Label

INT_TYPES = [
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
    pa.decimal128(20, 0),
    pa.decimal128(20, 2),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.int64()),
]


def one(column, name="user"):
    features = Features([Id(name), Label("y")])
    batch = encode(features, rows(**{name: column}))
    return keys_of(features, batch, name), batch


@pytest.mark.parametrize("kind", INT_TYPES, ids=str)
@given(values=st.lists(st.none() | st.integers(0, 100), min_size=1))
def test_an_integer_is_the_same_id_in_every_type(kind, values):
    stored = values
    if kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        stored = [None if v is None else str(v) for v in values]
    elif kind == pa.binary():
        stored = [None if v is None else str(v).encode() for v in values]
    keys, _ = one(pa.array(stored, kind))
    assert keys == [hash_value(v, salt("user")) for v in values]


@given(st.lists(st.none() | st.text(max_size=30)), st.data())
def test_a_slice_has_the_keys_of_its_rows(values, data):
    first = data.draw(st.integers(0, len(values)))
    last = data.draw(st.integers(first, len(values)))
    column = pa.array(values, pa.string())
    assert one(column[first:last])[0] == one(column)[0][first:last]
    coded = column.dictionary_encode()
    assert one(coded[first:last])[0] == one(column)[0][first:last]


def test_equal_values_of_two_features_have_two_keys_unless_they_share():
    features = Features([Id("a"), Id("b"), Id("c", shared="a"), Label("y")])
    batch = encode(features, rows(a=[7], b=[7], c=["7"]))
    a, b, c = (keys_of(features, batch, name) for name in "abc")
    assert a != b
    assert a == c


def test_a_null_is_an_id_of_its_own_and_so_is_nan_and_a_column_of_nulls():
    null = hash_value(None, salt("user"))
    assert one([None, ""])[0][0] == null
    assert one(["", "null", "None"])[0].count(null) == 0
    assert one([float("nan"), None])[0] == [null, null]
    assert one(pa.nulls(2))[0] == [null, null]


def test_a_text_of_ten_megabytes_is_a_reject_that_stays_small():
    long = "x" * 10_000_000
    keys, batch = one(["a", long, "b" * 65536, "c" * 65537])
    assert reasons(batch) == [
        (1, "column 'user': longer than 65536 bytes"),
        (3, "column 'user': longer than 65536 bytes"),
    ]
    assert batch.rejects[0].value == "x" * 200
    assert keys == [hash_value("a", salt("user")), hash_value("b" * 65536, salt("user"))]


def test_a_float_with_a_fraction_is_a_reject():
    keys, batch = one([1.0, 1.5, float("inf"), 2.0])
    assert reasons(batch) == [
        (1, "column 'user': not a whole number"),
        (2, "column 'user': not a whole number"),
    ]
    assert keys == one([1, 2])[0]
    assert batch.rejects[0].value == "1.5"


def test_a_decimal_with_a_fraction_is_a_reject():
    keys, batch = one([Decimal("5.00"), Decimal("5.25")])
    assert keys == one([5])[0]
    assert reasons(batch) == [(1, "column 'user': not a whole number")]


@given(st.integers(-(10**19), 10**19))
def test_a_decimal_without_a_fraction_is_exact(value):
    assert one(pa.array([Decimal(value)], pa.decimal128(20, 0)))[0] == one([str(value)])[0]


def test_text_that_is_no_utf8_is_an_id_and_its_reject_can_be_read():
    offsets = pa.py_buffer(np.array([0, 2, 65_600], np.int32).tobytes())
    column = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"\xff" * 65_600)])
    keys, batch = one(column)
    assert keys == [hash_value(b"\xff\xff", salt("user"))]
    assert len(batch.rejects[0].value) <= 200


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1]]),
        pa.array([{"a": 1}]),
        pa.array([[1]], pa.list_(pa.int64(), 1)),
        pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    ],
    ids=lambda column: str(column.type),
)
def test_a_nested_column_is_no_id(column):
    _, batch = one(column)
    assert batch.num_rows == 0
    assert reasons(batch) == [(0, f"column 'user': {column.type} cannot be read as ids")]


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)],
        [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2)],
        pa.array([b"a" * 16, b"b" * 16], pa.uuid()),
        pa.array([b"abcd", b"abce"], pa.binary(4)),
        pa.array([1.0, 2.0], pa.float16()),
        pa.RunEndEncodedArray.from_arrays([1, 2], ["a", "b"]),
    ],
    ids=lambda values: str(getattr(values, "type", type(values[0]))),
)
def test_whatever_names_a_thing_is_an_id(values):
    keys, batch = one(values)
    assert batch.rejects == ()
    assert len(set(keys)) == 2


def test_run_ends_hash_as_the_values_they_stand_for():
    assert one(pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]))[0] == one(["a", "a", "b"])[0]


def test_a_group_has_keys_and_is_not_in_the_layout():
    features = Features([Id("user"), Group("user"), Label("y")])
    batch = encode(features, rows(user=[1, None, 2]))
    assert batch.groups["user"].tolist() == keys_of(features, batch, "user")
    assert [field.name for field in features.layout.fields] == ["user"]

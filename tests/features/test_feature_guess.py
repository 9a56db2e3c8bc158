import datetime

import numpy as np
import pyarrow as pa
import pytest
from encoded import encode
from hypothesis import given
from hypothesis import strategies as st

from onstream import features as public
from onstream.errors import JobError
from onstream.features import EventTime, Features, Id, IdList, Label, Number, Tensor, Weight, guess, render

RANDOM = np.random.default_rng(7)
ROWS = 400


def guessed(**columns):
    table = pa.table(columns)
    return {d.name: d for d in guess(table.schema, table)}


def feature(column, name="x"):
    return guessed(**{name: column, "other": ["a"] * len(column), "label": [0, 1] * (len(column) // 2)}).get(
        name
    )


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"click": [0, 1], "b": [0, 1], "target": [3, 4]}, Label("click")),
        ({"a": [0, 1], "Target": [0.5, 0.25]}, Label("Target", "real")),
        ({"a": [5, 6], "is_fraud": [True, False], "c": [7, 8]}, Label("is_fraud")),
        ({"a": [5, 6], "bought": [0, 1], "c": [7, 8]}, Label("bought")),
        ({"a": [5, 6], "stars": [1, 5], "c": ["x", "y"]}, Label("stars", "class", classes=6)),
        ({"a": [5, 6], "stars": [1.0, 5.0]}, Label("stars", "real")),
        ({"a": [5, 6], "y": [-1, 5]}, Label("y", "real")),
        ({"a": [5, 6], "y": [0, 10**6]}, Label("y", "real")),
        ({"label": ["cat", "dog"], "y": [0, 1]}, Label("y")),
        ({"a": ["x", "y"], "b": ["true", "false"]}, Label("b")),
        ({"a": [5, 6], "y": [1, None]}, Label("y", required=False)),
    ],
)
def test_the_label_is_found_by_its_name_then_by_what_it_holds_then_as_the_last(columns, label):
    assert list(guessed(**columns).values())[-1] == label


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["a", "b"] * 200), Id("x")),
        (pa.array(["a", "b"] * 200).dictionary_encode(), Id("x")),
        (pa.array([1, 2] * 200), Id("x")),
        (pa.array([True, False] * 200), Id("x")),
        (pa.array(RANDOM.integers(0, 10**9, ROWS)), Number("x", standardize=True)),
        (pa.array(RANDOM.normal(size=ROWS)), Number("x", standardize=True)),
        (pa.array(RANDOM.lognormal(5, 2, ROWS)), Number("x", standardize=True, log=True)),
        (pa.array(RANDOM.lognormal(5, 2, ROWS) - 1000), Number("x", standardize=True)),
        (pa.array([str(v) for v in range(ROWS)]), Number("x", standardize=True)),
        (pa.array(["Drama|War", "Comedy", "a", "b"] * 100), Id("x")),
        (pa.array(["Drama|War", "Comedy|War", "a"] * 134), IdList("x", separator="|")),
        (pa.array([[1], [2, 3]] * 200), IdList("x")),
        (pa.array([["a"], None] * 200), IdList("x")),
        (pa.array([[0.5, 1.0]] * ROWS), Tensor("x", (2,))),
        (pa.array([[0.5, 1.0]] * ROWS, pa.list_(pa.float32(), 2)), Tensor("x", (2,))),
        (pa.array([[0, 255]] * ROWS, pa.list_(pa.uint8(), 2)), Tensor("x", (2,), scale=1 / 255)),
        (pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((ROWS, 2, 3))), Tensor("x", (2, 3))),
        (pa.array([[0.5], [0.5, 1.0]] * 200), None),
        (pa.array([{"a": 1}] * ROWS), None),
        (pa.nulls(ROWS), None),
        (pa.array([None] * ROWS, pa.string()), None),
    ],
    ids=lambda value: str(getattr(value, "type", value))[:40],
)
def test_a_column_is_guessed_by_its_type_and_values(column, kind):
    assert feature(column) == kind


def test_names_of_ids_weights_and_times_count():
    many = pa.array(RANDOM.integers(0, 10**9, ROWS))
    assert feature(many, "user_id") == Id("user_id")
    assert feature(pa.array([float(v) for v in range(ROWS)]), "userID") == Id("userID")
    assert feature(pa.array([str(v) for v in range(ROWS)]), "zip_code") == Id("zip_code")
    assert feature(pa.array([0.5, 2.0] * 200), "sample_weight") == Weight("sample_weight")


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_a_time_is_guessed_with_its_unit(unit, per_second):
    seconds = 1_700_000_000 + np.arange(ROWS)
    assert feature(pa.array(seconds * per_second), "created_at") == EventTime("created_at", unit)


def test_times_are_known_by_type_and_only_the_first_is_taken():
    moment = datetime.datetime(2024, 1, 1)
    got = guessed(a=[moment] * 2, ts=[1_700_000_000] * 2, u=["x", "y"], click=[0, 1])
    assert list(got.values()) == [EventTime("a"), Id("u"), Label("click")]
    assert guessed(time=[1, 2], click=[0, 1])["time"] == Id("time")
    assert guessed(date=["2024-01-01"] * 2, u=[1, 2], click=[0, 1])["date"] == EventTime("date")


def test_what_is_guessed_can_be_encoded():
    table = pa.table(
        {
            "user_id": RANDOM.integers(0, 10**9, ROWS),
            "price": RANDOM.lognormal(3, 2, ROWS),
            "tags": [["a", "b"]] * ROWS,
            "vector": pa.array([[0.5, 1.0]] * ROWS),
            "when": [datetime.datetime(2024, 1, 1)] * ROWS,
            "click": RANDOM.integers(0, 2, ROWS),
        }
    )
    batch = encode(Features(guess(table.schema, table)), table.combine_chunks().to_batches()[0])
    assert batch.num_rows == ROWS


@given(st.text(min_size=1), st.floats(0.1, 10), st.integers(1, 99))
def test_rendered_lines_are_python_that_declares_the_same(name, scale, count):
    declarations = [
        Id(name),
        Id("a", count, column=name, shared="b"),
        IdList("l", pooling="pad", length=count, separator=name),
        Number("n", log=True, fill=scale, column=name),
        Number("m", bounds=[-scale, scale], dim=count),
        Tensor("t", (count, 2), scale=scale),
        Label("y"),
        Label("z", "class", classes=count + 1, required=False),
        Label("r", "real"),
        Weight(name),
        EventTime(name, "ms"),
    ]
    assert [eval(line, vars(public).copy()) for line in render(declarations)] == declarations


def test_rendered_lines_say_no_more_than_is_needed():
    assert render([Id("user"), IdList("tags"), Number("x"), Label("y"), EventTime("t")]) == [
        'Id("user")',
        'IdList("tags")',
        'Number("x")',
        'Label("y")',
        'EventTime("t")',
    ]


def test_a_file_of_one_column_is_no_job():
    with pytest.raises(JobError, match="a job needs a label and a feature"):
        guessed(a=[1, 2])
    with pytest.raises(JobError, match="no column besides 'click' can be read as a feature"):
        guessed(a=[{"b": 1}], click=[1])


def test_a_column_that_is_always_one_is_not_taken_for_the_label():
    table = pa.table({"month": [1, 1, 1], "late": [0, 1, None], "miles": [5.5, 7.25, 8.0]})
    assert guess(table.schema, table)[-1] == Label("late", required=False)

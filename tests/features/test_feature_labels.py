import math

import numpy as np
import pyarrow as pa
import pytest
from encoded import encode, reasons

from onstream.features import Features, Id, Label, Weight


def one(column, *args, weight=None, **settings):
    weights = [] if weight is None else [Weight("w")]
    features = Features([Id("u"), Label("y", *args, **settings), *weights])
    columns = {"u": list(range(len(column))), "y": column}
    if weight is not None:
        columns["w"] = weight
    batch = encode(features, pa.RecordBatch.from_pydict(columns))
    return batch.labels["y"].tolist(), batch


@pytest.mark.parametrize(
    "column",
    [
        pa.array([True, False]),
        pa.array([1, 0], pa.int8()),
        pa.array([1, 0], pa.uint64()),
        pa.array([1.0, 0.0]),
        pa.array(["1", "0"]),
        pa.array(["true", "false"], pa.large_string()),
        pa.array(["True", "FALSE"], pa.string_view()),
        pa.array(["true", "false"]).dictionary_encode(),
        pa.array([1, 1, 0, 1])[1:3],
        pa.array(["x", "1", "0", "x"])[1:3],
    ],
    ids=lambda column: str(column.type),
)
def test_a_binary_label_is_read_from_every_type(column):
    values, batch = one(column)
    assert values == [1.0, 0.0]
    assert batch.rejects == ()


@pytest.mark.parametrize("bad", [2, -1, 0.5, math.inf, "2", "yes", "", "1.0", " 1"])
def test_what_is_no_binary_label_is_a_reject(bad):
    good = str(1) if isinstance(bad, str) else 1
    values, batch = one([good, bad])
    assert values == [1.0]
    assert reasons(batch) == [(1, "label 'y': expected 0 or 1")]
    assert batch.rejects[0].value == str(bad)


def test_a_class_is_a_whole_number_below_the_number_of_classes():
    values, batch = one([0, 2, 3, -1, None, 1], "class", classes=3)
    assert values == [0.0, 2.0, 1.0]
    assert reasons(batch) == [
        (2, "label 'y': expected a whole number from 0 to 2"),
        (3, "label 'y': expected a whole number from 0 to 2"),
        (4, "label 'y': missing"),
    ]
    assert one([1.0, 1.5], "class", classes=3)[0] == [1.0]
    assert one(["2", "x"], "class", classes=3)[0] == [2.0]


def test_a_real_label_is_finite():
    values, batch = one([1.5, math.inf, -2.0, 1e39, math.nan], "real")
    assert values == [1.5, -2.0]
    assert reasons(batch) == [
        (1, "label 'y': expected a finite number"),
        (3, "label 'y': expected a finite number"),
        (4, "label 'y': missing"),
    ]
    assert one(["1e3", "a"], "real")[0] == [1000.0]


def test_a_null_is_nan_where_the_label_is_not_required():
    for column in ([1, None], ["1", None], [1.0, math.nan]):
        values, batch = one(column, required=False)
        assert values[0] == 1.0
        assert math.isnan(values[1])
        assert batch.rejects == ()


def test_not_required_does_not_mean_anything_goes():
    assert reasons(one(["1", "x", None], required=False)[1]) == [(1, "label 'y': expected 0 or 1")]


def test_a_threshold_makes_numbers_binary():
    values, batch = one([3.5, 4.0, 5.0, None, math.inf], threshold=4.0, required=False)
    np.testing.assert_array_equal(values, [0.0, 1.0, 1.0, math.nan])
    assert reasons(batch) == [(4, "label 'y': expected a finite number")]


def test_several_labels_of_one_column_make_a_multi_task_job():
    features = Features(
        [
            Id("u"),
            Label("liked", column="stars", threshold=4),
            Label("stars", "class", classes=6),
            Label("seconds", "real", required=False),
        ]
    )
    batch = encode(
        features, pa.RecordBatch.from_pydict({"u": [1, 2], "stars": [3, 5], "seconds": [1.5, None]})
    )
    assert batch.labels["liked"].tolist() == [0.0, 1.0]
    assert batch.labels["stars"].tolist() == [3.0, 5.0]
    np.testing.assert_array_equal(batch.labels["seconds"], [1.5, math.nan])
    assert [(x.name, x.task, x.classes) for x in features.layout.labels] == [
        ("liked", "binary", 0),
        ("stars", "class", 6),
        ("seconds", "real", 0),
    ]


def test_a_weight_is_finite_and_not_negative_and_1_where_null():
    _, batch = one([1] * 6, weight=[0.5, None, math.nan, -1.0, math.inf, 0.0])
    assert batch.weights.tolist() == [0.5, 1.0, 1.0, 0.0]
    assert reasons(batch) == [
        (row, "weight 'w': expected a finite number that is not negative") for row in (3, 4)
    ]
    _, batch = one([1] * 2, weight=["2", "x"])
    assert batch.weights.tolist() == [2.0]


def test_without_a_weight_there_are_no_weights():
    _, batch = one([1])
    assert batch.weights is None

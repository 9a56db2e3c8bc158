import numpy as np
import pyarrow as pa
import pytest
from encoded import encode, reasons, rows

from onstream.features import Features, Label, Tensor

IMAGE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
FLAT = IMAGE.reshape(2, 6)


def one(column, shape=(2, 3), **settings):
    features = Features([Tensor("image", shape, **settings), Label("y")])
    batch = encode(features, rows(image=column))
    return batch.tensors["image"], batch


@pytest.mark.parametrize(
    "column",
    [
        pa.array(FLAT.tolist(), pa.list_(pa.uint8(), 6)),
        pa.array(FLAT.tolist(), pa.list_(pa.float32())),
        pa.array(FLAT.tolist(), pa.large_list(pa.int64())),
        pa.array(FLAT.tolist(), pa.list_view(pa.float64())),
        pa.array(IMAGE.tolist()),
        pa.array([row.tobytes() for row in FLAT]),
        pa.array([row.tobytes() for row in FLAT], pa.large_binary()),
        pa.array([row.tobytes() for row in FLAT], pa.binary(6)),
        pa.array([b"???", *(row.tobytes() for row in FLAT), b"??"])[1:3],
        pa.array([b"???", *(row.tobytes() for row in FLAT), b"??"], pa.large_binary())[1:3],
        pa.array([[9] * 6, *FLAT.tolist(), [9] * 6], pa.list_(pa.uint8(), 6))[1:3],
        pa.FixedShapeTensorArray.from_numpy_ndarray(IMAGE),
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_a_block_is_read_from_every_type_that_holds_one(column):
    tensors, batch = one(column)
    assert batch.rejects == ()
    assert tensors.dtype == np.float32
    assert tensors.tolist() == IMAGE.tolist()


def test_values_are_scaled():
    assert one([[0, 51, 255]], (3,), scale=1 / 255)[0].tolist() == [[0.0, pytest.approx(0.2), 1.0]]


@pytest.mark.parametrize("bad", [[1.0, 2.0], None, [1.0, None, 3.0], [1.0, float("nan"), 2.0], [1e39, 0, 0]])
def test_a_block_that_is_not_whole_and_finite_is_a_reject(bad):
    tensors, batch = one([[1.0, 2.0, 3.0], bad, [4.0, 5.0, 6.0]], (3,))
    assert tensors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert reasons(batch) == [(1, "column 'image': expected 3 finite numbers")]


def test_a_binary_of_another_length_is_a_reject():
    tensors, batch = one([b"\1\2", b"\1", None, b"\3\4"], (2,))
    assert tensors.tolist() == [[1, 2], [3, 4]]
    assert [position for position, _ in reasons(batch)] == [1, 2]


def test_large_finite_values_are_no_reject():
    assert one([[3e38, 3e38]], (2,))[1].num_rows == 1


@pytest.mark.parametrize("column", [["ab"], [["a"]], [1.0], [{"a": 1}]], ids=str)
def test_other_types_are_no_block(column):
    _, batch = one(column, (1,))
    assert reasons(batch) == [(0, f"column 'image': {pa.array(column).type} cannot be read as a tensor")]


def test_nulls_are_no_block():
    assert one(pa.nulls(2), (1,))[1].num_rows == 0
    assert one(pa.array([], pa.binary()), (1,))[0].shape == (0, 1)

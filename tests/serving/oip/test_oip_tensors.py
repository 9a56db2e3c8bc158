"""Tensors become the columns that they say, or are refused with a reason."""

import struct

import numpy as np
import pyarrow as pa
import pytest

from onstream.errors import RequestError
from onstream.serving.model import Input, Signature
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.tensors import Tensor, TensorReader

SIGNATURE = Signature(
    (
        Input("id", ("id",)),
        Input("list", ("list",), (-1,)),
        Input("number", ("number",)),
        Input("block", ("tensor",), (2,)),
    ),
    (),
)


def read(*tensors: Tensor, kinds: tuple = ("id",), shape: tuple = (), **limits) -> pa.RecordBatch:
    """Read tensors named "x" as an input of these kinds."""
    return TensorReader(Signature((Input("x", kinds, shape),), ()), Limits(**limits)).read(tensors)


def raw(values: np.ndarray, name: str, shape: list[int] | None = None) -> Tensor:
    return Tensor("x", name, shape or list(values.shape), values.tobytes())


NUMPY = {
    **{
        f"{u}INT{b}": np.dtype(f"{u.lower() or 'i'}{b // 8}".replace("iu", "u"))
        for u in ("", "U")
        for b in (8, 16, 32, 64)
    },
    "FP16": np.dtype("f2"),
    "FP32": np.dtype("f4"),
    "FP64": np.dtype("f8"),
}


@pytest.mark.parametrize("name", NUMPY)
def test_raw_and_typed_numbers_are_the_same_column_at_any_alignment(name):
    values = np.array([0, 1, 100], NUMPY[name])
    typed = read(Tensor("x", name, [3], None, values.tolist()), kinds=("number",))
    for shift in range(8):
        buffer = memoryview(bytes(shift) + values.tobytes())[shift:]
        column = read(Tensor("x", name, [3, 1], buffer), kinds=("number",))
        assert column == typed
        assert column["x"].to_pylist() == [0, 1, 100]


def test_truths_and_brain_floats_are_read():
    assert read(Tensor("x", "BOOL", [2], b"\0\1"), kinds=("number",))["x"].to_pylist() == [False, True]
    brain = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert read(raw(brain, "BF16"), kinds=("number",))["x"].to_pylist() == [1.5, -2.0]
    with pytest.raises(RequestError, match="a BOOL must be 0 or 1, got 2"):
        read(Tensor("x", "BOOL", [2], b"\0\2"), kinds=("number",))


def test_aligned_numbers_are_not_copied():
    values = np.arange(1000)
    column = read(Tensor("x", "INT64", [1000], memoryview(values).cast("B")))["x"]
    assert column.buffers()[1].address == values.ctypes.data


def test_lists_are_rows_of_elements_without_the_missing_ones():
    lists = {"kinds": ("list",), "shape": (-1,)}
    assert read(raw(np.arange(6).reshape(2, 3), "INT64"), **lists)["x"].to_pylist() == [[0, 1, 2], [3, 4, 5]]
    assert read(Tensor("x", "INT64", [2, 0], b""), **lists)["x"].to_pylist() == [[], []]
    typed = Tensor("x", "INT32", [2, 2], None, [[1, -1], [-1, -1]], -1)
    assert read(typed, **lists)["x"].to_pylist() == [[1, None], [None, None]]
    texts = Tensor("x", "BYTES", [1, 3], None, ["a", "", None])
    assert read(texts, **lists)["x"].to_pylist() == [["a", None, None]]


def test_blocks_are_rows_of_the_shape():
    column = read(raw(np.ones((3, 2, 2), np.float32), "FP32"), kinds=("tensor",), shape=(2, 2))["x"]
    assert column.type == pa.list_(pa.float32(), 4)
    assert column.to_pylist() == [[1.0] * 4] * 3


@pytest.mark.parametrize("many", [1, 300])
def test_what_stands_for_a_missing_value_can_be_said(many):
    raw_texts = b"".join(struct.pack("<I", len(t)) + t for t in [b"a", b"", b"-"]) * many
    as_texts = ["a", "", "-"] * many
    for given in ({"raw": raw_texts}, {"values": as_texts}):
        assert read(Tensor("x", "BYTES", [3 * many], **given))["x"].to_pylist() == ["a", None, "-"] * many
        said = read(Tensor("x", "BYTES", [3 * many], **given, missing="-"))
        assert said["x"].to_pylist() == ["a", "", None] * many
    whole = raw(np.array([3, -1, 0]), "INT64")
    assert read(whole._replace(missing=-1))["x"].to_pylist() == [3, None, 0]
    assert read(whole)["x"].to_pylist() == [3, -1, 0]
    assert read(whole._replace(missing=2**63))["x"].to_pylist() == [3, -1, 0]


def test_ids_beyond_the_precision_of_floats_are_exact():
    values = [2**53 + 1, 2**64 - 1]
    assert read(Tensor("x", "UINT64", [2], None, values))["x"].to_pylist() == values


def test_flat_data_and_nested_data_are_the_same():
    blocks = {"kinds": ("tensor",), "shape": (2, 2)}
    flat = Tensor("x", "FP32", [2, 2, 2], None, [1, 2, 3, 4, 5, 6, 7, 8.5])
    nested = flat._replace(values=[[[1, 2], [3, 4]], [[5, 6], [7, 8.5]]])
    assert read(flat, **blocks) == read(nested, **blocks)


ID, LIST, NUMBER, BLOCK = (("id",), ()), (("list",), (-1,)), (("number",), ()), (("tensor",), (2,))


@pytest.mark.parametrize(
    ("column", "tensor", "says"),
    [
        (ID, ("FP32", [1], bytes(4)), "must be one of BYTES, INT64, .* got 'FP32'"),
        (NUMBER, ("BYTES", [1], bytes(4)), "must be one of FP32, .* got 'BYTES'"),
        (BLOCK, ("BOOL", [1, 2], bytes(2)), "must be one of FP32"),
        (ID, ("STRING", [1], b""), "got 'STRING'"),
        ((("id", "number"), ()), ("BYTES", [1], bytes(4)), "must be one of INT64"),
        (ID, ("INT64", [], b""), r"must have shape \[rows\] or \[rows, 1\], got \[\]"),
        (ID, ("INT64", [1, 2], bytes(16)), r"got \[1, 2\]"),
        (ID, ("INT64", [1, 1, 1], bytes(8)), r"got \[1, 1, 1\]"),
        (ID, ("INT64", [-1], b""), r"got \[-1\]"),
        (ID, ("INT64", [2**63], b""), "must have shape"),
        (LIST, ("INT64", [2], bytes(16)), r"must have shape \[rows, elements\], got \[2\]"),
        (LIST, ("INT64", [1, 10**4000], b""), "must have shape"),
        (LIST, ("INT64", [1, 2**30], b""), "needs 8589934592 bytes"),
        (LIST, ("BYTES", [1, 2**30], b""), "cannot hold as many lengths"),
        (BLOCK, ("FP32", [1, 3], bytes(12)), r"must have shape \[rows, 2\], got \[1, 3\]"),
        (BLOCK, ("FP32", [2], bytes(8)), r"must have shape \[rows, 2\]"),
        (ID, ("INT64", [0], b""), "must have from 1 to 65536 rows, got 0"),
        (ID, ("INT64", [65537], b""), "must have from 1 to 65536 rows, got 65537"),
        (ID, ("INT64", [2], bytes(15)), r"needs 16 bytes for shape \[2\] of INT64, got 15"),
        (ID, ("INT64", [2], [1]), r"needs 2 values for shape \[2\], got 1"),
        (ID, ("INT64", [2], [[1], [2]]), "holds a value of type array"),
        (ID, ("INT64", [2, 1], [[1], 2]), "nested data does not have the shape"),
        (ID, ("INT64", [2, 1], [[1], [2, 3]]), "nested data does not have the shape"),
        (ID, ("INT64", [1], [1.0]), "INT64, but its data holds a value of type float"),
        (ID, ("INT64", [1], ["1"]), "holds a value of type text"),
        (ID, ("INT64", [1], [True]), "holds a value of type bool"),
        (ID, ("INT64", [1], [{}]), "holds a value of type object"),
        (ID, ("INT64", [1], [2**63]), "holds a value out of range"),
        (ID, ("UINT64", [1], [-1]), "holds a value out of range"),
        (ID, ("INT8", [1], [128]), "holds a value out of range"),
        (ID, ("BYTES", [1], [1]), "holds a value of type whole number"),
        (ID, ("BYTES", [1], ["\ud800"]), "that is not UTF-8 text"),
        (ID, ("BYTES", [1], [b"\xff"]), "that is not UTF-8 text"),
        (NUMBER, ("FP32", [1], [10**400]), "out of range"),
        (NUMBER, ("BOOL", [1], [1]), "holds a value of type whole number"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(column, tensor, says):
    datatype, shape, data = tensor
    given = {"values": data} if isinstance(data, list) else {"raw": data}
    with pytest.raises(RequestError, match=f"input 'x'.*{says}|{says}.*input 'x'"):
        read(Tensor("x", datatype, shape, **given), kinds=column[0], shape=column[1])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[1.0], 2], "needs|type"),
        ([3, 1.0], "holds a value of type float"),
        ([3, True], "holds a value of type bool"),
        ([3, "1"], "holds a value of type text"),
        ([3, 2**63], "holds a value out of range"),
        ([3], r"needs 2 values for shape \[2\], got 1"),
    ],
)
def test_among_inputs_that_are_read_together_the_one_that_does_not_fit_is_named(values, says):
    reader = TensorReader(Signature(tuple(Input(name, ("id",), ()) for name in "abc"), ()), Limits())
    good = [Tensor(name, "INT64", [2], None, own) for name, own in (("a", [1, -2]), ("b", [2**53 + 1, 0]))]
    assert reader.read([*good, Tensor("c", "INT64", [2, 1], None, [[5], [6]])]).to_pydict() == {
        "a": [1, -2], "b": [2**53 + 1, 0], "c": [5, 6]
    }  # fmt: skip
    # Where one must be read alone, the others are what they are.
    with_null = reader.read([*good, Tensor("c", "INT64", [2], None, [None, 7])])
    assert with_null.to_pydict() == {"a": [1, -2], "b": [2**53 + 1, 0], "c": [None, 7]}
    small = reader.read([*good, Tensor("c", "INT8", [2], None, [-128, 127])])
    assert small.column("c").type == pa.int8()
    with pytest.raises(RequestError, match=f"input 'c'.*{says}"):
        reader.read([*good, Tensor("c", "INT64", [2], None, values)])


def test_inputs_must_be_all_that_the_model_takes_once_and_alike():
    reader = TensorReader(SIGNATURE, Limits(max_rows=4))
    one = Tensor("id", "INT64", [2], bytes(16))
    two = Tensor("list", "INT64", [2, 1], bytes(16))
    three = Tensor("number", "FP32", [2], bytes(8))
    four = Tensor("block", "FP32", [2, 2], bytes(16))
    assert reader.read([three, one, four, two]).num_rows == 2
    for tensors, says in [
        ([one, one, two, three], "input 'id' is given twice"),
        ([one, three], "2 inputs are missing: 'list', 'block'"),
        ([], "4 inputs are missing"),
        (
            [one, two._replace(name="other")],
            "no input 'other'; the model takes 'id', 'list', 'number', 'block'",
        ),
        ([one._replace(name="n" * 10_000)], r"no input 'nnn[n.]*'"),
        ([one, Tensor("number", "FP32", [3], bytes(12))], "'id' has 2, 'number' has 3"),
        ([Tensor("id", "INT64", [5], bytes(40))], "from 1 to 4 rows, got 5"),
    ]:
        with pytest.raises(RequestError, match=says) as caught:
            reader.read(tensors)
        assert len(str(caught.value)) < 300

"""The tensors of a request as the columns of a record batch, and predictions as tensors: one place for both wires."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from onstream.contracts import Label, Predictions
from onstream.errors import RequestError
from onstream.serving.model import Input, Signature
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.texts import Framed, read_texts

__all__ = [
    "Missing",
    "Tensor",
    "TensorReader",
    "fixed_type",
    "labels_of",
    "output_of",
    "output_shape",
    "shown",
]

Missing: TypeAlias = int | str | None


class Tensor(NamedTuple):
    """One input as it was sent.

    Attributes
    ----------
    name, datatype : str
    shape : sequence of int
    raw : bytes or memoryview, optional
        The elements as bytes, little-endian and row-major; or
    values : sequence
        The elements as Python values: flat, or nested as `shape` says. None stands for a missing one.
    missing : int or str, optional
        The integer or text that stands for a missing value; the empty text without it.
    """

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] = ()
    missing: Missing = None


class TensorReader:
    """Reads tensors as the columns that a model takes.

    Parameters
    ----------
    signature : Signature
    limits : Limits

    Notes
    -----
    An id may be BYTES or any integer, a number any integer, float or BOOL, a block (a tensor of the model) any
    number but BOOL. Values that are missing become nulls. Raw elements are not copied, except to align them.
    """

    def __init__(self, signature: Signature, limits: Limits) -> None:
        self.signature = signature
        self._limits = limits
        self._inputs = {one.name: (one, datatypes_of(one)) for one in signature.inputs}

    def read(self, tensors: Sequence[Tensor]) -> pa.RecordBatch:
        """Return the rows that `tensors` hold.

        Raises
        ------
        RequestError
            If an input is unknown, missing, given twice, or has a datatype, shape or data that do not fit. All
            shapes and sizes are checked before the first element is read.
        """
        num_rows = self._check(tensors)
        texts = [
            Framed(one.name, one.raw, math.prod(one.shape))
            for one in tensors
            if one.raw is not None and one.datatype == "BYTES"
        ]
        read = iter(read_texts(texts)) if texts else iter(())
        whole = _whole_numbers(tensors)
        columns = []
        for one in tensors:
            if one.raw is None:
                elements = whole.get(one.name)
                if elements is None:
                    elements = _from_values(one)
            elif one.datatype == "BYTES":
                elements = next(read)
                if one.missing not in (None, ""):
                    elements = _without_missing(elements.fill_null(""), one.missing)
            else:
                elements = _from_raw(one)
            shape = self._inputs[one.name][0].shape
            columns.append(_column(elements, one, shape, num_rows) if shape else elements)
        return pa.RecordBatch.from_arrays(columns, names=[one.name for one in tensors])

    def _check(self, tensors: Sequence[Tensor]) -> int:
        """Check all that can be checked without reading elements; return the number of rows."""
        num_rows = -1
        seen = set()
        for one in tensors:
            name = one.name
            known = self._inputs.get(name)
            if known is None:
                raise RequestError(
                    f"there is no input {shown(name)}; the model takes {_listed(self._inputs)}"
                )
            if name in seen:
                raise RequestError(f"input {name!r} is given twice")
            seen.add(name)
            column, datatypes = known
            if one.datatype not in datatypes:
                raise RequestError(
                    f"input {name!r} must be one of {', '.join(datatypes)}, got {shown(one.datatype)}"
                )
            rows = _rows(one, column)
            if rows != num_rows:
                if num_rows >= 0:
                    raise RequestError(
                        f"all inputs must have the same number of rows: {tensors[0].name!r} has {num_rows}, "
                        f"{name!r} has {rows}"
                    )
                num_rows = rows
                if not 1 <= rows <= self._limits.max_rows:
                    raise RequestError(
                        f"a request must have from 1 to {self._limits.max_rows} rows, got {rows} in input {name!r}"
                    )
            _check_size(one)
        if len(seen) < len(self._inputs):
            missing = [name for name in self._inputs if name not in seen]
            raise RequestError(f"{len(missing)} inputs are missing: {_listed(missing)}")
        return num_rows


def datatypes_of(column: Input) -> tuple[str, ...]:
    """Return the datatypes that an input may have, the one that metadata names first."""
    if not set(column.kinds) & {"id", "list"}:
        return _FLOATS + _INTEGERS if "tensor" in column.kinds else (*_FLOATS, *_INTEGERS, "BOOL")
    return ("BYTES", *_INTEGERS) if set(column.kinds) <= {"id", "list"} else _INTEGERS


def fixed_type(one: Tensor) -> pa.DataType | None:
    """Return the type of the column that a tensor's bytes are as they stand; None if they must be looked at."""
    shape = one.shape
    as_they_are = one.raw is not None and one.missing is None and one.datatype in _AS_THEY_ARE
    return _FORMS[one.datatype].arrow if as_they_are and math.prod(shape) == shape[0] else None


def labels_of(signature: Signature, names: Sequence[str]) -> Sequence[Label]:
    """Return the outputs of these names, in this order; all without names. Raises RequestError."""
    if not names:
        return signature.outputs
    known = {label.name: label for label in signature.outputs}
    for name in names:
        if name not in known:
            raise RequestError(f"there is no output {shown(name)}; the model gives {_listed(known)}")
    if len(set(names)) < len(names):
        raise RequestError("an output is asked for twice")
    return [known[name] for name in names]


def output_of(label: Label, predictions: Predictions, num_rows: int) -> npt.NDArray[np.float32]:
    """Return one output as it is sent: little-endian float32, row-major."""
    values = np.ascontiguousarray(predictions[label.name], "<f4")
    expected = tuple(output_shape(label, num_rows))
    assert values.shape == expected, (
        f"predictions of {label.name!r} have shape {values.shape}, not {expected}"
    )
    return values


def output_shape(label: Label, num_rows: int) -> list[int]:
    """Return the shape of one output."""
    return [num_rows, label.classes] if label.task == "class" else [num_rows]


def shown(text: object) -> str:
    """Return what a client sent, as an error may repeat it: quoted, and cut when it is long."""
    quoted = _SHORT.repr(text)
    return quoted if len(quoted) <= 100 else f"{quoted[:97]}..."


class _Raw(NamedTuple):
    """How a datatype looks: as numpy reads its bytes, as Arrow keeps it, and what its Python values are."""

    dtype: np.dtype[Any]
    arrow: pa.DataType
    types: frozenset[type]


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxlist, _SHORT.maxdict, _SHORT.maxlevel = 80, 8, 4, 2

_NO_VALUE: type = type(None)
_TRUTH: frozenset[type] = frozenset({bool, _NO_VALUE})
_WHOLE: frozenset[type] = frozenset({int, _NO_VALUE})
_REAL: frozenset[type] = frozenset({int, float, _NO_VALUE})
_TEXT: frozenset[type] = frozenset({str, bytes, _NO_VALUE})

_FORMS: Final[Mapping[str, _Raw]] = {
    "BOOL": _Raw(np.dtype("u1"), pa.bool_(), _TRUTH),
    "INT8": _Raw(np.dtype("i1"), pa.int8(), _WHOLE),
    "INT16": _Raw(np.dtype("<i2"), pa.int16(), _WHOLE),
    "INT32": _Raw(np.dtype("<i4"), pa.int32(), _WHOLE),
    "INT64": _Raw(np.dtype("<i8"), pa.int64(), _WHOLE),
    "UINT8": _Raw(np.dtype("u1"), pa.uint8(), _WHOLE),
    "UINT16": _Raw(np.dtype("<u2"), pa.uint16(), _WHOLE),
    "UINT32": _Raw(np.dtype("<u4"), pa.uint32(), _WHOLE),
    "UINT64": _Raw(np.dtype("<u8"), pa.uint64(), _WHOLE),
    "FP16": _Raw(np.dtype("<f2"), pa.float32(), _REAL),
    "BF16": _Raw(np.dtype("<u2"), pa.float32(), _REAL),
    "FP32": _Raw(np.dtype("<f4"), pa.float32(), _REAL),
    "FP64": _Raw(np.dtype("<f8"), pa.float64(), _REAL),
    "BYTES": _Raw(np.dtype("u1"), pa.string(), _TEXT),
}
_INTEGERS = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_AS_THEY_ARE = frozenset({*_INTEGERS, "FP32", "FP64"})
_FLOATS = ("FP32", "FP64", "FP16", "BF16")


def _rows(one: Tensor, column: Input) -> int:
    """Return the number of rows that a shape says, if it fits the column."""
    shape = one.shape
    # Sizes that no request can hold are refused here, so that products of them stay small numbers.
    fits = len(shape) >= 1 and min(shape) >= 0 and max(shape) < 2**31
    if not column.shape:
        fits = fits and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
        expected = "[rows] or [rows, 1]"
    elif column.shape == (-1,):
        fits = fits and len(shape) == 2
        expected = "[rows, elements]"
    else:
        fits = fits and tuple(shape[1:]) == column.shape
        expected = f"[rows, {', '.join(map(str, column.shape))}]"
    if not fits:
        raise RequestError(f"input {one.name!r} must have shape {expected}, got {shown(list(shape))}")
    return shape[0]


def _check_size(one: Tensor) -> None:
    if one.raw is None or one.datatype == "BYTES":
        # Values are counted while they are made flat, BYTES before they are read.
        return
    expected = math.prod(one.shape) * _FORMS[one.datatype].dtype.itemsize
    if len(one.raw) != expected:
        raise RequestError(
            f"input {one.name!r} needs {shown(expected)} bytes for shape {shown(list(one.shape))} of "
            f"{one.datatype}, got {len(one.raw)}"
        )


def _from_raw(one: Tensor) -> pa.Array:
    """Read numbers from their bytes."""
    assert one.raw is not None
    dtype, arrow, _ = _FORMS[one.datatype]
    if one.datatype in ("BOOL", "FP16", "BF16"):
        return pa.array(_widened(one, np.frombuffer(one.raw, dtype)))
    buffer = pa.py_buffer(one.raw)
    if buffer.address % dtype.itemsize:
        # Kernels may read aligned memory only; new bytes are aligned.
        buffer = pa.py_buffer(bytes(one.raw))
    elements = pa.Array.from_buffers(arrow, buffer.size // dtype.itemsize, [None, buffer])
    return elements if one.missing is None else _without_missing(elements, one.missing)


def _widened(one: Tensor, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return values whose bytes no column holds as they are."""
    if one.datatype == "BOOL":
        if len(values) and values.max() > 1:
            raise RequestError(f"input {one.name!r}: a BOOL must be 0 or 1, got {values.max()}")
        return values.view(np.bool_)
    if one.datatype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _whole_numbers(tensors: Sequence[Tensor]) -> dict[str, pa.Array]:
    """Read the elements of all inputs of one datatype at once, by the name of the input, if these are whole numbers.

    One call of numpy for forty columns instead of one each. What is not right in one of them is told by who reads
    them one by one.
    """
    found = [
        one
        for one in tensors
        if one.raw is None and _FORMS[one.datatype].types is _WHOLE and one.missing is None
    ]
    kinds = {one.datatype for one in found}
    if len(kinds) != 1:
        return {}
    arrow = _FORMS[kinds.pop()].arrow
    values = [_flat(one) for one in found]
    together = list(chain.from_iterable(values))
    if set(map(type, together)) != {int}:
        return {}
    try:
        numbers = pa.py_buffer(np.array(together, arrow.to_pandas_dtype()))
    except OverflowError:
        return {}
    # An array is checked when it is made, a slice of one is not.
    column = pa.Array.from_buffers(arrow, len(together), [None, numbers])
    ends = accumulate(map(len, values))
    return {
        one.name: column.slice(end - len(own), len(own))
        for one, own, end in zip(found, values, ends, strict=True)
    }


def _from_values(one: Tensor) -> pa.Array:
    """Read elements from Python values, as strictly as a compiled client would have had to write them."""
    _, arrow, allowed = _FORMS[one.datatype]
    values = _flat(one)
    for found in set(map(type, values)) - allowed:
        raise RequestError(
            f"input {one.name!r} is {one.datatype}, but its data holds a value of type {_named(found)}"
        )
    try:
        if allowed is _REAL:
            # Out of range is infinite, as it is in raw data; what the model makes of it is one rule for both.
            with np.errstate(over="ignore"):
                reals = np.array(values, np.float64).astype(arrow.to_pandas_dtype())
            return pa.array(reals)
        if allowed is _WHOLE and None not in values:
            # numpy reads a list in a third of Arrow's time, and refuses what is out of range.
            numbers = np.array(values, arrow.to_pandas_dtype())
            elements = pa.Array.from_buffers(arrow, len(numbers), [None, pa.py_buffer(numbers)])
        else:
            elements = pa.array(values, arrow)
            elements.validate(full=True)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        why = "that is not UTF-8 text" if allowed is _TEXT else "out of range"
        raise RequestError(
            f"input {one.name!r} is {one.datatype}, but its data holds a value {why}"
        ) from error
    missing = "" if one.missing is None and one.datatype == "BYTES" else one.missing
    return elements if missing is None else _without_missing(elements, missing)


def _flat(one: Tensor) -> list[Any]:
    """Return the values row by row, checked against the shape while nesting is undone."""
    values = one.values if isinstance(one.values, list) else list(one.values)
    total = math.prod(one.shape)
    for size in one.shape[1:]:
        if not values or type(values[0]) is not list:
            break
        if any(type(inner) is not list or len(inner) != size for inner in values):
            raise RequestError(
                f"input {one.name!r}: its nested data does not have the shape {shown(list(one.shape))}"
            )
        values = list(chain.from_iterable(values))
    if len(values) != total:
        raise RequestError(
            f"input {one.name!r} needs {shown(total)} values for shape {shown(list(one.shape))}, got {len(values)}"
        )
    return values


def _without_missing(elements: pa.Array, missing: int | str) -> pa.Array:
    """Return elements with null for those that are `missing`."""
    if isinstance(missing, str) != pa.types.is_string(elements.type):
        return elements
    try:
        stand_in = pa.scalar(missing, elements.type)
    except (pa.ArrowInvalid, OverflowError):
        return elements
    return pc.if_else(pc.equal(elements, stand_in), pa.scalar(None, elements.type), elements)


def _column(elements: pa.Array, one: Tensor, shape: tuple[int, ...], num_rows: int) -> pa.Array:
    """Return the elements of lists or blocks as one value a row."""
    if shape != (-1,):
        return pa.FixedSizeListArray.from_arrays(elements, math.prod(shape))
    offsets = np.arange(num_rows + 1, dtype=np.int32) * np.int32(one.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), elements)


def _listed(names: Mapping[str, Any] | Sequence[str]) -> str:
    some = list(names)[:10]
    rest = len(names) - len(some)
    return ", ".join(map(repr, some)) + (f" and {rest} more" if rest else "")


def _named(kind: type) -> str:
    """Return what a Python type is called in JSON."""
    names = {bool: "bool", int: "whole number", float: "float", str: "text", list: "array", dict: "object"}
    return "null" if kind is _NO_VALUE else names.get(kind, kind.__name__)

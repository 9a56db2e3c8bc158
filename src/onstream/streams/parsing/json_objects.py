"""JSON objects as rows: a column for each field of a schema, decoded many objects at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from onstream.core import decode_json
from onstream.errors import JobError
from onstream.streams.parsing.core_columns import to_array
from onstream.streams.parsing.misfits import failing, misfit

__all__ = ["MAX_DEPTH", "JsonObjects", "infer_types"]

MAX_DEPTH = 64
"""How deep objects and lists may be nested, by default."""

# Types that the core decodes, alone or as elements of lists; others are left to pyarrow.
_FLAT_TYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float", "double", "string"),
)

_INVALID, _NOT_OBJECT, _TOO_DEEP, _TWICE, _MISFIT = range(1, 6)


def infer_types(texts: Iterable[bytes]) -> dict[str, pa.DataType]:
    """Return the fields and types of the valid objects among some texts.

    A field of values that do not go together has the type of the first; one without values is a string.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        with suppress(ValueError, RecursionError):
            found = json.loads(text)
            for name, value in found.items() if isinstance(found, dict) else ():
                values.setdefault(name, []).append(value)
    return {name: _common_type([v for v in found if v is not None]) for name, found in values.items()}


def _common_type(values: list[Any]) -> pa.DataType:
    """Return the type of some values without None."""
    if values and all(type(v) is int and 0 <= v < 2**64 for v in values) and max(values) >= 2**63:
        return pa.uint64()
    for some in (values, values[:1]):
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeError):
            return pa.array(some).type if some else pa.string()
    return pa.string()


@dataclass
class JsonObjects:
    """Decodes texts of one object each; fields that `schema` does not name are skipped, missing ones are null.

    Parameters
    ----------
    schema : pyarrow.Schema
        Each name once.
    max_depth : int
        Objects nested deeper are rejected; the object itself has depth 1.

    Raises
    ------
    JobError
        If JSON cannot be read into a column's type.

    Notes
    -----
    An object is valid by RFC 8259, in UTF-8, without lone surrogates. It is judged alike whatever its neighbours are.
    """

    schema: pa.Schema
    max_depth: int = MAX_DEPTH
    _fields: list[tuple[str, str, bool]] = field(init=False)
    _nested: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Choose how each column is decoded."""
        self._fields = [(f.name, *_kind(f.type)) for f in self.schema]
        self._nested = [i for i, (_, kind, _) in enumerate(self._fields) if kind == "json"]
        for i in self._nested:
            column = self.schema.field(i)
            try:
                _parse(pa.array(["null"]), column.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise JobError(f"column {column.name!r}: JSON cannot be read as {column.type}") from error

    def decode(
        self,
        texts: Sequence[bytes] | bytes,
        starts: npt.NDArray[np.int64] | None = None,
        ends: npt.NDArray[np.int64] | None = None,
    ) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good texts, and why each bad one is bad, by its index.

        Parameters
        ----------
        texts : sequence of bytes, or bytes
            With `starts` and `ends`, int64 (n,), text `i` is ``texts[starts[i]:ends[i]]``.
        """
        rows, parts, rejects = decode_json(texts, self._fields, self.max_depth, starts, ends)
        bad = {index: self._reason(fault, place) for index, fault, place in rejects}
        if not self._fields:
            # Such a batch still has rows.
            return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([]))), bad
        columns = [
            to_array(pa.string() if kind == "json" else self.schema.field(i).type, parts[i])
            for i, (_, kind, _) in enumerate(self._fields)
        ]
        misfits: dict[int, str] = {}
        for i in self._nested:
            column = self.schema.field(i)
            for row in failing(list(range(rows)), lambda some: _parses(columns[i].take(some), column.type)):  # noqa: B023
                misfits.setdefault(row, misfit(column.name, column.type))
        if misfits:
            kept = np.delete(np.arange(rows), list(misfits))
            columns = [column.take(kept) for column in columns]
            indices = np.delete(np.arange(rows + len(bad)), list(bad))
            bad |= {int(indices[row]): reason for row, reason in misfits.items()}
        for i in self._nested:
            columns[i] = _parse(columns[i], self.schema.field(i).type)
        return pa.RecordBatch.from_arrays(columns, schema=self.schema), bad

    def _reason(self, fault: int, place: int) -> str:
        """Say why a text is no row."""
        if fault == _MISFIT:
            column = self.schema.field(place)
            return misfit(column.name, column.type)
        if fault == _TWICE:
            return f"column {self.schema.field(place).name!r}: given twice"
        if fault == _TOO_DEEP:
            return f"JSON nested deeper than {self.max_depth}"
        return "not a JSON object" if fault == _NOT_OBJECT else "not valid JSON"


def _kind(type: pa.DataType) -> tuple[str, bool]:
    """Return as what the core decodes a column, and whether as a list of it."""
    if str(type) in _FLAT_TYPES:
        return str(type), False
    if pa.types.is_list(type) and str(type.value_type) in _FLAT_TYPES:
        return str(type.value_type), True
    return "json", False


def _parses(values: pa.Array, type: pa.DataType) -> bool:
    """Return whether valid JSON values are all of a type."""
    try:
        _parse(values, type)
    except pa.ArrowInvalid:
        return False
    return True


def _parse(values: pa.Array, type: pa.DataType) -> pa.Array:
    """Read valid JSON values, one line each. Raises pyarrow.ArrowInvalid if one is of another type."""
    if not len(values):
        return pa.array([], type)
    large = pa.large_string()
    begin, end, between = (pa.scalar(text, large) for text in ('{"":', "}\n", ""))
    lines = pc.binary_join_element_wise(begin, values.cast(large).fill_null("null"), end, between)
    text = lines.buffers()[2]
    table = pa_json.read_json(
        pa.BufferReader(text),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=text.size + 1),
        parse_options=pa_json.ParseOptions(explicit_schema=pa.schema([("", type)])),
    )
    table.validate(full=True)
    if table.num_rows != len(values):
        raise pa.ArrowInvalid("JSON values are not one row each")
    return table.column(0).combine_chunks()

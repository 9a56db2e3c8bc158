"""libsvm and libffm text: a label, then ``index:value`` or ``field:index:value`` for whatever is not zero."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onstream.streams.parsing.sparse_text import (
    is_index,
    is_number,
    parse_sparse,
    to_indices,
    to_numbers,
    tokens,
    trimmed,
)
from onstream.streams.parsing.text import Lines

__all__ = ["LIBFFM_SCHEMA", "LIBSVM_SCHEMA", "LibsvmParser"]

_INDICES = pa.list_(pa.int64())
_VALUES = pa.list_(pa.float32())

LIBSVM_SCHEMA = pa.schema([("label", pa.float32()), ("indices", _INDICES), ("values", _VALUES)])
LIBFFM_SCHEMA = pa.schema(
    [("label", pa.float32()), ("fields", _INDICES), ("indices", _INDICES), ("values", _VALUES)]
)


class LibsvmParser:
    """Parses lines of one example each. What follows a "#" is a comment.

    Parameters
    ----------
    fields : bool
        Whether each value has a field before its index, as in libffm.
    columns : tuple of str, optional
        Give only these.

    References
    ----------
    Chang and Lin, "LIBSVM: a library for support vector machines", 2011, and its README, "Quick Start";
    https://github.com/ycjuan/libffm, "Data Format".
    """

    def __init__(self, *, fields: bool, columns: tuple[str, ...] | None = None) -> None:
        full = LIBFFM_SCHEMA if fields else LIBSVM_SCHEMA
        self.schema = pa.schema([f for f in full if columns is None or f.name in columns])
        self._names = full.names[1:]
        self._parts = b"field:index:value" if fields else b"index:value"

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""
        return parse_sparse(lines, self.schema, self._parse, self._complaint)

    def _parse(self, texts: pa.Array) -> pa.RecordBatch:
        """Return a row for each text; all columns are read, so that a row is judged alike whichever are wanted."""
        if pc.any(pc.match_substring(texts, "#")).as_py():
            texts = trimmed(pc.list_element(pc.split_pattern(texts, "#", max_splits=1), 0))
        flat, offsets = tokens(texts)
        if np.any(np.diff(offsets) == 0):
            raise pa.ArrowInvalid("a line has no label")
        first = np.zeros(len(flat), bool)
        first[offsets[:-1]] = True
        labels = to_numbers(flat.filter(pa.array(first)))
        features = flat.filter(pa.array(~first))
        width = len(self._names)
        lists = pc.split_pattern(features, ":")
        if not np.all(np.diff(lists.offsets.to_numpy()) == width):
            raise pa.ArrowInvalid("a value has not all of its parts")
        parts = lists.flatten()
        places = [pa.array(np.arange(i, len(parts), width)) for i in range(width)]
        columns = {"label": pa.array(labels)}
        starts = pa.array((offsets - np.arange(len(offsets))).astype(np.int32))
        for name, place in zip(self._names, places, strict=True):
            values = parts.take(place)
            inner = pa.array(to_numbers(values)) if name == "values" else to_indices(values)
            columns[name] = pa.ListArray.from_arrays(starts, inner)
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)

    def _complaint(self, line: bytes) -> str | None:
        """Say why one line is no row; None if it is one."""
        label, *features = line.partition(b"#")[0].split() or [b""]
        if not label:
            return "a line without a label"
        if not is_number(label):
            return "the label is not a number"
        for feature in features:
            *indices, value = feature.split(b":")
            if len(indices) + 1 != len(self._names):
                return f"a value is not written as {self._parts.decode()}"
            if not all(map(is_index, indices)):
                return "an index is not a whole number that fits int64"
            if not is_number(value):
                return "a value is not a number"
        return None

"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from onstream.streams.chunks import no_rows
from onstream.streams.misfits import failing, misfit
from onstream.streams.text import Lines

__all__ = ["JsonLinesParser", "infer_types"]


def infer_types(lines: Iterable[bytes]) -> dict[str, pa.DataType]:
    """Return the columns and types of the valid objects among some lines.

    A field of values that do not go together has the type of the first; one without values is a string.
    """
    values: dict[str, list[Any]] = {}
    for line in lines:
        if _complaint(line) is None:
            for name, value in json.loads(line).items():
                values.setdefault(name, []).append(value)
    return {name: _common_type([v for v in found if v is not None]) for name, found in values.items()}


def _common_type(values: list[Any]) -> pa.DataType:
    """Return the type of some values without None."""
    for some in (values, values[:1]):
        with suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return pa.array(some).type if some else pa.string()
    return pa.string()


@dataclass
class JsonLinesParser:
    """Parses objects; fields that `schema` does not name are skipped, missing ones are null.

    Parameters
    ----------
    schema : pyarrow.Schema
    """

    schema: pa.Schema
    _parse: pa_json.ParseOptions = field(init=False)

    def __post_init__(self) -> None:
        """Build what does not change from chunk to chunk."""
        self._parse = _options(self.schema)

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""
        if _look_like_objects(lines):
            batch = _decode(lines.whole(), self._parse, len(lines))
            if batch is not None:
                return batch, {}
        complaints = ((i, _complaint(lines.line(i))) for i in range(len(lines)))
        bad = {i: complaint for i, complaint in complaints if complaint}
        good = [i for i in range(len(lines)) if i not in bad]
        for i in failing(good, lambda some: self._fits(lines.join(some), self.schema.names, len(some))):
            bad[i] = self._reason(lines.join([i]))
        good = [i for i in good if i not in bad]
        batch = _decode(lines.join(good), self._parse, len(good)) if good else no_rows(self.schema)
        assert batch is not None
        return batch, bad

    def _fits(self, text: bytes, names: list[str], num_rows: int) -> bool:
        """Return whether the fields `names` have values of their types."""
        schema = pa.schema([self.schema.field(name) for name in names])
        return _decode(text, _options(schema), num_rows) is not None

    def _reason(self, line: bytes) -> str:
        """Say why one JSON object is no row."""
        names = [name for name, _ in json.loads(line, object_pairs_hook=list)]
        for name in self.schema.names:
            if names.count(name) > 1:
                return f"column {name!r}: given twice"
        if not self._fits(line, [], 1):
            return "not valid JSON"
        for name in failing(self.schema.names, lambda names: self._fits(line, names, 1)):
            return misfit(name, self.schema.field(name).type)
        return "not valid JSON"


def _look_like_objects(lines: Lines) -> bool:
    """Return whether each line begins with "{" and ends with "}".

    Then no object can reach over a line end, so that as many objects as lines means one a line.
    """
    data = np.frombuffer(lines.data, np.uint8)
    last = lines.ends - 1
    last = last - (data[last] == ord("\n"))
    last = last - (data[last] == ord("\r"))
    return bool(np.all(data[lines.starts] == ord("{")) and np.all(data[last] == ord("}")))


def _complaint(line: bytes) -> str | None:
    """Say why a line is no JSON object; None if it is one."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return "not valid JSON"
    return None if isinstance(value, dict) else "not a JSON object"


def _options(schema: pa.Schema) -> pa_json.ParseOptions:
    """Return the options of pyarrow for a fixed schema."""
    return pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")


def _decode(text: pa.Buffer | bytes, parse: pa_json.ParseOptions, num_rows: int) -> pa.RecordBatch | None:
    """Parse a text as one batch of `num_rows` rows; None if that fails."""
    options = pa_json.ReadOptions(use_threads=False, block_size=len(text) + 1)
    try:
        table = pa_json.read_json(pa.BufferReader(text), read_options=options, parse_options=parse)
        # pyarrow does not check that strings are UTF-8 here.
        table.validate(full=True)
    except pa.ArrowInvalid:
        return None
    if table.num_rows != num_rows:
        return None
    return table.combine_chunks().to_batches()[0]

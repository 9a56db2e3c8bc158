"""JSON lines: one object a line."""

from __future__ import annotations

import pyarrow as pa

from onstream.streams.parsing.json_objects import JsonObjects
from onstream.streams.parsing.text import Lines

__all__ = ["JsonLinesParser"]


class JsonLinesParser:
    """Parses objects; fields that `schema` does not name are skipped, missing ones are null.

    Parameters
    ----------
    schema : pyarrow.Schema
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._objects = JsonObjects(schema)

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""
        return self._objects.decode(lines.data, lines.starts, lines.ends)

"""Types of columns as users give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import pyarrow as pa

from onstream.errors import JobError

__all__ = ["SchemaLike", "as_schema"]

SchemaLike: TypeAlias = pa.Schema | Mapping[str, str | pa.DataType]


def as_schema(given: SchemaLike) -> pa.Schema:
    """Return given types as a schema. Raises JobError for a type that is not known, or a column given twice."""
    if isinstance(given, pa.Schema):
        twice = sorted({name for name in given.names if given.names.count(name) > 1})
        if twice:
            raise JobError(f"schema: column {twice[0]!r} is given twice")
        return given
    fields = []
    for name, kind in given.items():
        try:
            fields.append((name, pa.type_for_alias(kind) if isinstance(kind, str) else kind))
        except ValueError as error:
            raise JobError(f"schema: the type {kind!r} of column {name!r} is not known to pyarrow") from error
    return pa.schema(fields)

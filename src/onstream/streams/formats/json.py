"""JSON: one object a message."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from onstream.streams.chunks import NO_COLUMNS
from onstream.streams.formats.described import Described
from onstream.streams.formats.format import (
    MAX_MESSAGE_BYTES,
    Decoded,
    Messages,
    Undecodable,
    check_limits,
    screen,
    shortened,
)
from onstream.streams.formats.inference import Inference, selected
from onstream.streams.parsing.json_objects import MAX_DEPTH, JsonObjects, infer_types
from onstream.streams.parsing.schemas import SchemaLike, as_schema

__all__ = ["Json"]

_INFERRED_FROM = 1000


@dataclass(frozen=True, init=False)
class Json(Described):
    """Read each message as one JSON object.

    Parameters
    ----------
    schema : pyarrow.Schema or mapping of column to type, optional
        The fields to read and their types; a type is a `pyarrow.DataType` or its name, such as "int64". Without
        it, fields and types are those of the first 1000 messages, or fewer if fewer came at once: give it where a
        job must read alike whenever it is started.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_depth : int, default 64
        Messages with objects and lists nested deeper are rejected.

    Raises
    ------
    JobError
        If a limit is below 1, or a type is not known or cannot be read from JSON.

    Notes
    -----
    A field that a message has not, or has as `null`, is null; fields that the schema has not are skipped. A message
    is rejected if it is not one JSON object (RFC 8259) in UTF-8, names a column twice, or has a value that is not
    of its column's type: numbers in quotes are text, and 1.0 is no whole number.

    Examples
    --------
    >>> from onstream.streams.formats import Json
    >>> decoded = Json({"user": "int64"}).decode([b'{"user": 7}', None, b'{"user": "x"}', b'{"user": 8}'])
    >>> decoded.batch.to_pydict(), decoded.sources.tolist(), decoded.rejects[0].reason
    ({'user': [7, 8]}, [0, 3], "column 'user': not a whole number that fits int64")
    """

    types: pa.Schema | None
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_depth: int
    _inference: Inference = field(compare=False, repr=False)

    # Written out because `schema`, the argument, is also the name of a method of every format.
    def __init__(
        self,
        schema: SchemaLike | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_depth: int = MAX_DEPTH,
    ) -> None:
        """Check and keep the arguments."""
        check_limits(max_message_bytes=max_message_bytes, max_depth=max_depth)
        types = None if schema is None else as_schema(schema)
        if types is not None:
            # Refuses types that cannot be read from JSON.
            JsonObjects(types, max_depth)
        facts = {
            "types": types,
            "columns": None,
            "max_message_bytes": max_message_bytes,
            "max_depth": max_depth,
            "_inference": Inference(types),
        }
        self._keep(**facts)

    def schema(self) -> pa.Schema:
        """Return the columns of every batch; empty as long as they are not known."""
        known = self._inference.known()
        return NO_COLUMNS if known is None else selected(known, self.columns, add=self.types is None)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none."""
        chosen, indices, rejects = screen(messages, self.max_message_bytes)
        known = self._inference.settle(lambda: _inferred(chosen))
        objects = JsonObjects(NO_COLUMNS, self.max_depth)
        if known is not None:
            objects = self._inference.once(self.columns, lambda: JsonObjects(self.schema(), self.max_depth))
        batch, bad = objects.decode(chosen)
        for i, reason in bad.items():
            rejects.append(Undecodable(int(indices[i]), reason, shortened(chosen[i])))
        rejects.sort(key=lambda reject: reject.index)
        return Decoded(batch, np.delete(indices, list(bad)), rejects)


def _inferred(messages: list[bytes]) -> pa.Schema | None:
    """Return the fields of the first messages; None if none of them is an object with fields."""
    types = infer_types(messages[:_INFERRED_FROM])
    return pa.schema(list(types.items())) if types else None

"""A user's own format: a function that makes rows of messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from onstream.errors import JobError
from onstream.streams.chunks import no_rows
from onstream.streams.formats.described import Described
from onstream.streams.formats.format import (
    MAX_MESSAGE_BYTES,
    MAX_ROWS_PER_MESSAGE,
    Decoded,
    Messages,
    Undecodable,
    check_limits,
    screen,
    shortened,
)
from onstream.streams.formats.inference import selected
from onstream.streams.parsing.misfits import failing, misfit
from onstream.streams.parsing.schemas import SchemaLike, as_schema

__all__ = ["Custom"]

Row: TypeAlias = Mapping[str, Any]
_REASON_CHARACTERS = 200


@dataclass(frozen=True, init=False)
class Custom(Described):
    """Read each message with a function.

    Parameters
    ----------
    function : callable
        Takes a message, bytes, and returns its row as a mapping of column to value, its rows as an iterable of such
        mappings, or None if it has none. What it raises rejects the message. With `batched`, it takes a list of
        messages and returns a `pyarrow.RecordBatch` of one row a message, which is many times faster; if it raises,
        it is called again with ever fewer messages, until those that it cannot read are found.
    schema : pyarrow.Schema or mapping of column to type
        The columns that it gives, and their types; a type is a `pyarrow.DataType` or its name. Values that a row has
        not got are null.
    batched : bool, default False
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_rows_per_message : int, default 131072
        Messages of more rows are rejected.

    Raises
    ------
    JobError
        If an argument is wrong; while decoding, if a batch has not got a row for each message.

    Examples
    --------
    >>> from onstream.streams.formats import Custom
    >>> def pair(message):
    ...     user, price = message.split(b";")
    ...     return {"user": int(user), "price": float(price)}
    >>> decoded = Custom(pair, {"user": "int64", "price": "double"}).decode([b"7;1.5", b"7"])
    >>> decoded.batch.to_pydict(), decoded.rejects[0].reason
    ({'user': [7], 'price': [1.5]}, 'ValueError: not enough values to unpack (expected 2, got 1)')
    """

    function: Callable[[Any], Any]
    types: pa.Schema
    batched: bool
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_rows_per_message: int

    # Written out because `schema`, the argument, is also the name of a method of every format.
    def __init__(
        self,
        function: Callable[[Any], Any],
        schema: SchemaLike,
        *,
        batched: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_rows_per_message: int = MAX_ROWS_PER_MESSAGE,
    ) -> None:
        """Check and keep the arguments."""
        check_limits(max_message_bytes=max_message_bytes, max_rows_per_message=max_rows_per_message)
        if not callable(function):
            raise JobError(f"function must be a function, got {function!r}")
        facts = {
            "function": function,
            "types": as_schema(schema),
            "batched": batched,
            "columns": None,
            "max_message_bytes": max_message_bytes,
            "max_rows_per_message": max_rows_per_message,
        }
        self._keep(**facts)

    def schema(self) -> pa.Schema:
        """Return the columns of every batch."""
        return selected(self.types, self.columns)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        found = (self._batched if self.batched else self._one_by_one)(texts, indices.tolist(), rejects)
        return Decoded(found.batch, found.sources, sorted(rejects, key=lambda reject: reject.index))

    def _one_by_one(self, texts: list[bytes], indices: list[int], rejects: list[Undecodable]) -> Decoded:
        """Call the function once for each message."""
        found: list[tuple[int, bytes, list[Row]]] = []
        for text, index in zip(texts, indices, strict=True):
            try:
                found.append((index, text, self._rows(text)))
            # Whatever the user's function cannot read is no row, for whatever reason.
            except Exception as error:
                rejects.append(Undecodable(index, _reason(error), shortened(text)))
        schema = self.schema()
        try:
            columns = _columns([row for _, _, rows in found for row in rows], schema)
        except _MisfitError:
            found = [one for one in found if not self._misfits(one, schema, rejects)]
            columns = _columns([row for _, _, rows in found for row in rows], schema)
        sources = np.array([index for index, _, rows in found for _ in rows], np.int64)
        batch = pa.RecordBatch.from_arrays(columns, schema=schema) if len(sources) else no_rows(schema)
        return Decoded(batch, sources)

    def _misfits(
        self, found: tuple[int, bytes, list[Row]], schema: pa.Schema, rejects: list[Undecodable]
    ) -> bool:
        """Return whether the rows of a message have values of other types; then it is rejected."""
        index, text, rows = found
        try:
            _columns(rows, schema)
        except _MisfitError as error:
            rejects.append(Undecodable(index, str(error), shortened(text)))
            return True
        return False

    def _rows(self, text: bytes) -> list[Row]:
        """Return the rows of one message."""
        made = self.function(text)
        if made is None:
            return []
        if isinstance(made, Mapping):
            return [made]
        rows: list[Row] = []
        for row in made:
            if not isinstance(row, Mapping):
                raise TypeError(f"a row must be a mapping of column to value, got {type(row).__name__}")
            if len(rows) == self.max_rows_per_message:
                raise ValueError(f"message of more than {self.max_rows_per_message} rows")
            rows.append(row)
        return rows

    def _batched(self, texts: list[bytes], indices: list[int], rejects: list[Undecodable]) -> Decoded:
        """Call the function with all messages, and with fewer if it cannot read them all."""
        schema = self.schema()
        why: dict[int, str] = {}

        def works(rows: list[int]) -> bool:
            try:
                self._call([texts[row] for row in rows])
            except JobError:
                raise
            except Exception as error:
                if len(rows) == 1:
                    why[rows[0]] = _reason(error)
                return False
            return True

        try:
            batch = self._call(texts) if texts else no_rows(schema)
        except JobError:
            raise
        except Exception:
            bad = set(failing(list(range(len(texts))), works))
            rejects += [Undecodable(indices[i], why[i], shortened(texts[i])) for i in sorted(bad)]
            good = [i for i in range(len(texts)) if i not in bad]
            batch = self._call([texts[i] for i in good]) if good else no_rows(schema)
            indices = [indices[i] for i in good]
        return Decoded(batch, np.array(indices, np.int64))

    def _call(self, texts: list[bytes]) -> pa.RecordBatch:
        """Return what the function makes of some messages, in the types of the schema."""
        made = self.function(texts)
        if not isinstance(made, pa.RecordBatch) or made.num_rows != len(texts):
            came = f"{made.num_rows} rows" if isinstance(made, pa.RecordBatch) else type(made).__name__
            raise JobError(
                f"the function must return a RecordBatch of {len(texts)} rows, one a message; got {came}"
            )
        columns = []
        for column in self.schema():
            there = column.name in made.schema.names
            values = made.column(column.name) if there else pa.nulls(made.num_rows, column.type)
            columns.append(values.cast(column.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema())


def _columns(rows: list[Row], schema: pa.Schema) -> list[pa.Array]:
    """Return rows as columns. Raises _MisfitError if a value is not of the type of its column."""
    columns = []
    for column in schema:
        try:
            columns.append(pa.array([row.get(column.name) for row in rows], column.type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            raise _MisfitError(misfit(column.name, column.type)) from error
    return columns


class _MisfitError(Exception):
    """A value is not of the type of its column."""


def _reason(error: Exception) -> str:
    """Return what a function raised, shortened."""
    return f"{type(error).__name__}: {error}"[:_REASON_CHARACTERS]

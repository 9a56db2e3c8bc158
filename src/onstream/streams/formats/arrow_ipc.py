"""Arrow IPC: many rows a message, as a stream or as a file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from onstream.streams.chunks import NO_COLUMNS, no_rows
from onstream.streams.formats.arrow_claims import claims_of
from onstream.streams.formats.arrow_plain import plain, plain_type
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
from onstream.streams.formats.inference import Inference
from onstream.streams.parsing.misfits import misfit
from onstream.streams.parsing.schemas import SchemaLike, as_schema

__all__ = ["ArrowIpc"]

# A file is this, padded to eight bytes, a stream, and a footer.
_FILE_MAGIC = b"ARROW1"
_FILE_HEAD_BYTES = 8

_NOT_ARROW = "not an Arrow IPC stream or file"


class _UnusableError(Exception):
    """Why a message is no rows."""


@dataclass(frozen=True, init=False)
class ArrowIpc(Described):
    """Read each message as an Arrow IPC stream or file with a schema of its own.

    Parameters
    ----------
    schema : pyarrow.Schema or mapping of column to type, optional
        The columns to read and their types, into which those of a message are cast where nothing is lost. Without it,
        it is that of the first message that can be read.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_rows_per_message : int, default 131072
        Messages of more rows are rejected.
    max_decoded_bytes : int, default 256 MiB
        Messages that would take more memory are rejected before they are decompressed, and so are those of which a
        column takes more once its dictionary or its views are written out.

    Raises
    ------
    JobError
        If an argument is wrong.

    Notes
    -----
    Columns are found by name: those that a message lacks are null, those that the schema has not are skipped.
    Dictionaries and views become plain columns, extension types what they are stored as. A message is rejected as a
    whole if it is damaged, breaks off, goes on after its end, has none of the columns, or has a value that its column
    cannot hold.

    Examples
    --------
    >>> import io, pyarrow as pa
    >>> from onstream.streams.formats import ArrowIpc
    >>> rows, message = pa.record_batch({"user": [7, 8]}), io.BytesIO()
    >>> with pa.ipc.new_stream(message, rows.schema) as writer:
    ...     writer.write(rows)
    >>> decoded = ArrowIpc().decode([message.getvalue(), b"nonsense"])
    >>> decoded.batch.to_pydict(), decoded.sources.tolist(), decoded.rejects[0].reason
    ({'user': [7, 8]}, [0, 0], 'not an Arrow IPC stream or file')
    """

    types: pa.Schema | None
    columns: tuple[str, ...] | None
    max_message_bytes: int
    max_rows_per_message: int
    max_decoded_bytes: int
    _inference: Inference = field(compare=False, repr=False)

    # Written out because `schema`, the argument, is also the name of a method of every format.
    def __init__(
        self,
        schema: SchemaLike | None = None,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_rows_per_message: int = MAX_ROWS_PER_MESSAGE,
        max_decoded_bytes: int = 256 << 20,
    ) -> None:
        """Check and keep the arguments."""
        limits = {
            "max_message_bytes": max_message_bytes,
            "max_rows_per_message": max_rows_per_message,
            "max_decoded_bytes": max_decoded_bytes,
        }
        check_limits(**limits)
        types = None if schema is None else as_schema(schema)
        facts = {"types": types, "columns": None, "_inference": Inference(types)} | limits
        self._keep(**facts)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others are none."""
        chosen, indices, rejects = screen(messages, self.max_message_bytes)
        batches: list[pa.RecordBatch] = []
        sources: list[int] = []
        for message, index in zip(chosen, indices.tolist(), strict=True):
            try:
                found = self._read(message)
            except _UnusableError as error:
                rejects.append(Undecodable(index, str(error), shortened(message)))
                continue
            batches += found
            sources += [index] * len(found)
        rejects.sort(key=lambda reject: reject.index)
        if not batches:
            return Decoded(no_rows(self.schema()), np.empty(0, np.int64), rejects)
        rows = np.fromiter((batch.num_rows for batch in batches), np.int64, len(batches))
        whole = batches[0] if len(batches) == 1 else pa.concat_batches(batches)
        return Decoded(whole, np.repeat(np.array(sources, np.int64), rows), rejects)

    def _read(self, message: bytes) -> list[pa.RecordBatch]:
        """Return the batches of one message, with the columns of the schema."""
        head = _FILE_HEAD_BYTES if message.startswith(_FILE_MAGIC) else 0
        stream = pa.py_buffer(message).slice(min(head, len(message)))
        try:
            claims = claims_of(stream)
            if claims.rows > self.max_rows_per_message:
                raise _UnusableError(f"message of more than {self.max_rows_per_message} rows")
            if claims.bytes > self.max_decoded_bytes:
                raise _UnusableError(f"message of more than {self.max_decoded_bytes} bytes when decompressed")
            if not head and claims.end != stream.size:
                raise _UnusableError("bytes after the end of the Arrow stream")
            with pa.ipc.open_stream(stream, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
                batches = list(reader)
                schema = reader.schema
                # A name that is no UTF-8 is found when it is read.
                names = schema.names
            for batch in batches:
                batch.validate(full=True)
        except (ValueError, OSError, pa.ArrowException) as error:
            raise _UnusableError(_NOT_ARROW) from error
        known = self._inference.settle(lambda: _plain_schema(schema))
        wanted = NO_COLUMNS if known is None else self._inference.once(self.columns, self.schema)
        # Without its metadata, which pyarrow does not compare.
        if schema.equals(wanted):
            return [pa.RecordBatch.from_arrays(b.columns, schema=wanted) for b in batches if b.num_rows]
        places = {name: i for i, name in enumerate(names)}
        if any(names.count(name) > 1 for name in wanted.names if name in places):
            raise _UnusableError("a column is given twice")
        if not any(name in places for name in wanted.names):
            raise _UnusableError("the message has none of the columns")
        return [self._cast(batch, places, wanted) for batch in batches if batch.num_rows]

    def _cast(self, batch: pa.RecordBatch, places: dict[str, int], wanted: pa.Schema) -> pa.RecordBatch:
        """Return the wanted columns in the wanted types; null where the batch has not got them."""
        columns = []
        for column in wanted:
            place = places.get(column.name)
            if place is None:
                columns.append(pa.nulls(batch.num_rows, column.type))
                continue
            values = batch.column(place)
            columns.append(values if values.type == column.type else self._cast_column(values, column))
        return pa.RecordBatch.from_arrays(columns, schema=wanted)

    def _cast_column(self, values: pa.Array, column: pa.Field) -> pa.Array:
        """Return a column in the wanted type."""
        if plain_type(values.type) is None:
            raise _UnusableError(f"column {column.name!r}: the type {_name(values.type)} is not taken")
        try:
            return pc.cast(plain(values, self.max_decoded_bytes), column.type)
        except pa.ArrowException as error:
            raise _UnusableError(misfit(column.name, column.type)) from error
        except ValueError as error:
            reason = f"column {column.name!r}: more than {self.max_decoded_bytes} bytes when decoded"
            raise _UnusableError(reason) from error


def _plain_schema(schema: pa.Schema) -> pa.Schema | None:
    """Return the columns of a message that are taken, as they are without encodings; None if there are none."""
    fields = {}
    for column in schema:
        kind = plain_type(column.type)
        if kind is not None and schema.names.count(column.name) == 1:
            fields[column.name] = kind
    return pa.schema(list(fields.items())) if fields else None


def _name(kind: pa.DataType) -> str:
    """Return the name of a type; that of a wide struct is cut."""
    text = str(kind)
    return text if len(text) <= 80 else f"{text[:77]}..."

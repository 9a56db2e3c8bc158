"""CSV and TSV: many rows a message, with or without a header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
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
from onstream.streams.formats.inference import Inference
from onstream.streams.formats.lines import parse_lines, split_lines
from onstream.streams.formats.merge import merged, with_columns
from onstream.streams.parsing.delimited import DelimitedParser, Dialect, infer_types, split_header
from onstream.streams.parsing.schemas import SchemaLike, as_schema

__all__ = ["Csv"]

_INFERRED_FROM_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, init=False)
class Csv(Described):
    """Read each message as the lines of a CSV or TSV text, a row each.

    Parameters
    ----------
    schema : pyarrow.Schema or mapping of column to type, optional
        The columns to read and their types; a type is a `pyarrow.DataType` or its name, such as "int64". Without
        it, all columns are read, with types that the first messages suggest: give it where a job must read alike
        whenever it is started.
    column_names : sequence of str, optional
        Names of all columns, in their order, for messages without a header. By default the first line of every
        message is a header.
    delimiter : str, default ","
        One ASCII character; a tab for TSV.
    quoting : bool, optional
        Whether values may stand in double quotes. By default they may, unless the delimiter is a tab.
    null_values : sequence of str, default ("",)
        How a missing value is written. A quoted value is never missing.
    max_message_bytes : int, default 16 MiB
        Longer messages are rejected.
    max_rows_per_message : int, default 131072
        Messages of more lines are rejected.

    Raises
    ------
    JobError
        If an argument is wrong.

    Notes
    -----
    Every line that is not blank is one row or one reject, so one bad line costs no other. A quoted value may hold
    the delimiter but no line end. With a header, columns are found by their names in each message: those that it
    lacks are null, and a message that has none of them is rejected.

    Examples
    --------
    >>> from onstream.streams.formats import Csv
    >>> decoded = Csv({"user": "int64"}).decode([b"user,price\\n7,1.5\\n8,2\\n", b"price,user\\n3,9\\n"])
    >>> decoded.batch.to_pydict(), decoded.sources.tolist()
    ({'user': [7, 8, 9]}, [0, 0, 1])
    """

    types: pa.Schema | None
    column_names: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    delimiter: str
    quoting: bool
    null_values: tuple[str, ...]
    max_message_bytes: int
    max_rows_per_message: int
    _inference: Inference = field(compare=False, repr=False)

    # Written out because `schema`, the argument, is also the name of a method of every format.
    def __init__(
        self,
        schema: SchemaLike | None = None,
        *,
        column_names: Sequence[str] | None = None,
        delimiter: str = ",",
        quoting: bool | None = None,
        null_values: Sequence[str] = ("",),
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        max_rows_per_message: int = MAX_ROWS_PER_MESSAGE,
    ) -> None:
        """Check and keep the arguments."""
        check_limits(max_message_bytes=max_message_bytes, max_rows_per_message=max_rows_per_message)
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
            raise JobError(f"delimiter must be one ASCII character, no quote or line end, got {delimiter!r}")
        types = None if schema is None else as_schema(schema)
        names = None if column_names is None else tuple(column_names)
        if names is not None:
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise JobError(f"column_names: {twice[0]!r} is given twice")
            missing = [] if types is None else [name for name in types.names if name not in names]
            if missing or not names:
                raise JobError(
                    f"column_names must name all columns; {missing or 'columns'} of schema= are missing"
                )
        quoting = delimiter != "\t" if quoting is None else quoting
        if types is not None:
            _check_types(types, Dialect(delimiter, '"' if quoting else "", tuple(null_values)))
        facts = {
            "types": types,
            "column_names": names,
            "columns": None,
            "delimiter": delimiter,
            "quoting": quoting,
            "null_values": tuple(null_values),
            "max_message_bytes": max_message_bytes,
            "max_rows_per_message": max_rows_per_message,
            "_inference": Inference(types),
        }
        self._keep(**facts)

    def decode(self, messages: Messages) -> Decoded:
        """Return the rows of some messages and why the others, or some of their lines, are none."""
        texts, indices, rejects = screen(messages, self.max_message_bytes)
        if self.column_names is not None:
            groups = {self.column_names: (texts, indices)} if texts else {}
        else:
            groups = self._by_header(texts, indices, rejects)
        self._inference.settle(lambda: self._inferred(groups))
        schema = self.schema()
        parts = [self._decode(names, schema, group, owners) for names, (group, owners) in groups.items()]
        return merged(schema, parts, rejects)

    def _decode(
        self, names: tuple[str, ...], schema: pa.Schema, texts: list[bytes], indices: npt.NDArray[np.int64]
    ) -> Decoded:
        """Return the rows of texts that have all the same columns."""
        there = [column for column in schema if column.name in names]
        if not there:
            return self._unreadable(names, schema, texts, indices)
        parser = self._inference.once(
            (names, self.columns), lambda: DelimitedParser(names, pa.schema(there), self._dialect())
        )
        found = parse_lines(texts, indices, parser, [], max_rows=self.max_rows_per_message)
        if len(there) == len(schema):
            there_in_order = (
                found.batch if found.batch.schema.equals(schema) else found.batch.select(schema.names)
            )
            return Decoded(there_in_order, found.sources, found.rejects)
        return Decoded(with_columns(found.batch, schema), found.sources, found.rejects)

    def _unreadable(
        self, names: tuple[str, ...], schema: pa.Schema, texts: list[bytes], indices: npt.NDArray[np.int64]
    ) -> Decoded:
        """Return rejects for texts without columns that are known and wanted."""
        header = self.delimiter.join(names).encode()
        # One that has a header alone says nothing, unless that is rather a row of a text without a header.
        wrong = bool(schema.names) and self.column_names is None
        reason = (
            "the header has none of the columns" if schema.names else "the columns' types cannot be inferred"
        )
        found = [
            (i, text if text.strip(b"\r\n") else header)
            for i, text in zip(indices.tolist(), texts, strict=True)
            if wrong or text.strip(b"\r\n")
        ]
        return Decoded(
            no_rows(schema),
            np.empty(0, np.int64),
            [Undecodable(i, reason, shortened(text)) for i, text in found],
        )

    def _by_header(
        self, texts: list[bytes], indices: npt.NDArray[np.int64], rejects: list[Undecodable]
    ) -> dict[tuple[str, ...], tuple[list[bytes], npt.NDArray[np.int64]]]:
        """Return what follows the headers of some texts, and the indices of these, by header."""
        known: dict[bytes, tuple[str, ...] | str] = {}
        groups: dict[tuple[str, ...], tuple[list[bytes], list[int]]] = {}
        for text, index in zip(texts, indices.tolist(), strict=True):
            header, _, rest = text.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").partition(b"\n")
            if not header:
                continue
            names = known.get(header)
            if names is None:
                names = known[header] = self._names(header)
            if isinstance(names, str):
                rejects.append(Undecodable(index, names, shortened(text)))
                continue
            group, owners = groups.setdefault(names, ([], []))
            group.append(rest)
            owners.append(index)
        return {names: (group, np.array(owners, np.int64)) for names, (group, owners) in groups.items()}

    def _names(self, header: bytes) -> tuple[str, ...] | str:
        """Return the column names of a header line, or why it is none."""
        try:
            names = tuple(split_header(header, self._dialect()))
        except ValueError:
            return "the header is not one line of text in UTF-8"
        return "the header names a column twice" if len(set(names)) < len(names) else names

    def _inferred(
        self, groups: dict[tuple[str, ...], tuple[list[bytes], npt.NDArray[np.int64]]]
    ) -> pa.Schema | None:
        """Return the columns of the first texts that have rows; None if that cannot be told from them."""
        for names, (texts, _) in groups.items():
            for some in (texts, *([text] for text in texts)):
                lines, _ = split_lines(some)
                if not len(lines):
                    continue
                sample = lines.data[: int(lines.ends[-1])]
                if len(sample) > _INFERRED_FROM_BYTES:
                    fitting = int(np.count_nonzero(lines.ends <= _INFERRED_FROM_BYTES))
                    sample = sample[: int(lines.ends[max(0, fitting - 1)])]
                try:
                    types = infer_types(sample, names, self._dialect())
                except pa.ArrowInvalid:
                    continue
                return pa.schema(list(types.items()))
        return None

    def _dialect(self) -> Dialect:
        """Return how values are written."""
        return Dialect(self.delimiter, '"' if self.quoting else "", self.null_values)


def _check_types(types: pa.Schema, dialect: Dialect) -> None:
    """Refuse types that cannot be read from text, by reading some."""
    lines, _ = split_lines([dialect.delimiter.join("x" * len(types)).encode()])
    try:
        DelimitedParser(types.names, types, dialect).parse(lines)
    except pa.ArrowNotImplementedError as error:
        raise JobError(f"schema: {error}") from error

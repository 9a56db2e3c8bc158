"""CSV and TSV: the columns of a file, and its lines as rows."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv

from onstream.core import split_text
from onstream.streams.chunks import no_rows
from onstream.streams.parsing.misfits import failing, misfit
from onstream.streams.parsing.text import Lines

# Types that plain text is split into without pyarrow's parser.
_PLAIN_TYPES = ("string", "int8", "int16", "int32", "int64", "double")

__all__ = ["DelimitedParser", "Dialect", "infer_types", "split_header"]

# To pyarrow, text that is not UTF-8 in a row of a wrong number of columns is an error that no handler is asked about.
# Columns and quotes are told apart without it.
_ASCII = bytes(i if i < 128 else ord("x") for i in range(256))

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How values are written in a delimited text. `quote` is empty where quotes are ordinary characters."""

    delimiter: str
    quote: str
    null_values: tuple[str, ...]

    def parse_options(self, skip: Callable[[Any], str] | None = None) -> pa_csv.ParseOptions:
        """Return the options of pyarrow; `skip` is asked about rows of a wrong number of columns."""
        return pa_csv.ParseOptions(
            delimiter=self.delimiter, quote_char=self.quote or False, invalid_row_handler=skip
        )

    def convert_options(
        self, types: dict[str, pa.DataType], columns: Sequence[str] | None = None
    ) -> pa_csv.ConvertOptions:
        """Return the options of pyarrow for columns of the given types; types not given are inferred."""
        return pa_csv.ConvertOptions(
            column_types=types,
            include_columns=columns,
            null_values=self.null_values,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )


def split_header(line: bytes, dialect: Dialect) -> list[str]:
    """Return the column names of a header line. Raises ValueError if it is not one line of UTF-8 text."""
    text = line.decode().rstrip("\r\n")
    if not dialect.quote:
        return text.split(dialect.delimiter)
    try:
        return next(csv.reader([text], delimiter=dialect.delimiter, quotechar=dialect.quote), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error


def infer_types(text: bytes, names: Sequence[str], dialect: Dialect) -> dict[str, pa.DataType]:
    """Return the types that the values at the beginning of a text suggest.

    A column becomes a string if it has no values, or some that are not UTF-8: these are to be rejected, not taken as
    bytes. Raises pyarrow.ArrowInvalid if the text cannot be parsed.
    """
    table = pa_csv.read_csv(
        pa.BufferReader(text),
        read_options=pa_csv.ReadOptions(
            use_threads=False, column_names=list(names), block_size=len(text) + 1
        ),
        parse_options=dialect.parse_options(lambda row: "skip"),
        convert_options=dialect.convert_options({}),
    )
    as_string = (pa.types.is_null, pa.types.is_binary)
    return {f.name: pa.string() if any(test(f.type) for test in as_string) else f.type for f in table.schema}


@dataclass
class DelimitedParser:
    """Parses lines of a fixed number of columns.

    Parameters
    ----------
    names : sequence of str
        Of all columns of the file, in their order.
    schema : pyarrow.Schema
        The columns to decode.
    dialect : Dialect
    """

    names: Sequence[str]
    schema: pa.Schema
    dialect: Dialect
    _types: dict[str, pa.DataType] = field(init=False)
    _convert: pa_csv.ConvertOptions = field(init=False)
    _parse: pa_csv.ParseOptions = field(init=False)
    _quote: bytes = field(init=False)
    _sentinel: bytes = field(init=False)
    _plain: list[tuple[int, str]] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Build what does not change from chunk to chunk."""
        self._types = {f.name: f.type for f in self.schema}
        self._convert = self.dialect.convert_options(self._types, self.schema.names)
        self._parse = self.dialect.parse_options()
        self._quote = self.dialect.quote.encode()
        if self.dialect.null_values == ("",) and all(str(t) in _PLAIN_TYPES for t in self._types.values()):
            places = {name: i for i, name in enumerate(self.names)}
            self._plain = [(places[name], str(kind)) for name, kind in self._types.items()]
        self._sentinel = b"0" + self.dialect.delimiter.encode() * (len(self.names) - 1) + b"\n"

    def parse(self, lines: Lines) -> tuple[pa.RecordBatch, dict[int, str]]:
        """Return the rows of the good lines, and why each bad one is bad, by the line's index."""
        batch = self._split(lines)
        if batch is None:
            batch = self._fast(lines)
        if batch is not None:
            return batch, {}
        bad = self._misshapen(lines)
        good = [i for i in range(len(lines)) if i not in bad]
        for name in failing(self.schema.names, lambda names: self._converts(lines.join(good), names)):
            reason = misfit(name, self._types[name])
            for i in failing(good, lambda some: self._converts(lines.join(some), [name])):  # noqa: B023
                bad.setdefault(i, reason)
        good = [i for i in good if i not in bad]
        return self._decode(lines.join(good), self._convert), bad

    def _split(self, lines: Lines) -> pa.RecordBatch | None:
        """Return the rows if every line is plain text: several times faster than what can read all text."""
        begin, end = int(lines.starts[0]), int(lines.ends[-1])
        if self._plain is None or (self._quote and lines.data.find(self._quote, begin, end) >= 0):
            return None
        rows = len(lines)
        columns = split_text(
            lines.data, begin, end, self.dialect.delimiter, rows, len(self.names), self._plain
        )
        if columns is None:
            return None
        arrays = []
        for kind, (nulls, *parts) in zip(self._types.values(), columns, strict=True):
            validity, offsets, values = (None if part is None else pa.py_buffer(part) for part in parts)
            buffers = [validity, offsets, values] if pa.types.is_string(kind) else [validity, values]
            arrays.append(pa.Array.from_buffers(kind, rows, buffers, nulls))
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _fast(self, lines: Lines) -> pa.RecordBatch | None:
        """Return the rows if every line is surely one row."""
        whole = lines.whole()
        data = lines.data
        first, last, end = int(lines.starts[0]), int(lines.starts[-1]), int(lines.ends[-1])
        # pyarrow also ends rows at a lone carriage return, and a quote that is still open at the end swallows
        # the line end; neither changes the number of rows in a way that could be counted below.
        if data.find(b"\r", first, end) >= 0 and (
            data.count(b"\r", first, end) != data.count(b"\r\n", first, end)
        ):
            return None
        quoted = self._quote and data.find(self._quote, last, end) >= 0
        if quoted and not self._closed(lines.line(len(lines) - 1)):
            return None
        try:
            batch = self._decode(whole, self._convert)
        except pa.ArrowInvalid:
            return None
        return batch if batch.num_rows == len(lines) else None

    def _decode(self, text: pa.Buffer | bytes, convert: pa_csv.ConvertOptions) -> pa.RecordBatch:
        """Parse a text as one batch."""
        table = _read(text, self.names, self._parse, convert)
        return table.combine_chunks().to_batches()[0] if table.num_rows else no_rows(table.schema)

    def _converts(self, text: bytes, names: list[str]) -> bool:
        """Return whether the columns `names` of a well-shaped text have values of their types."""
        try:
            _read(text, self.names, self._parse, self.dialect.convert_options(self._types, names))
        except pa.ArrowInvalid:
            return False
        return True

    def _misshapen(self, lines: Lines) -> dict[int, str]:
        """Return why lines are not one row of the right number of columns, by index."""
        bad: dict[int, str] = {}

        def works(some: list[int]) -> bool:
            found, num_rows = self._shape(lines.join(some))
            if num_rows + len(found) != len(some):
                return False
            bad.update({some[number]: reason for number, reason in found})
            return True

        plain = [i for i in range(len(lines)) if b"\r" not in lines.line(i)]
        others = [i for i in range(len(lines)) if b"\r" in lines.line(i)]
        # Lines with a return inside are tried alone: in a longer text their extra rows could make up for rows
        # that an open quote has merged.
        unclosed = failing(plain, works) + [i for i in others if not works([i])]
        for i in unclosed:
            bad[i] = "one line is not one row: a quote is not closed, or a line end is inside"
        return bad

    def _closed(self, line: bytes) -> bool:
        """Return whether no quote is still open at the end of a line."""
        found, num_rows = self._shape(line + b"\n")
        return len(found) + num_rows == 1

    def _shape(self, text: bytes) -> tuple[list[tuple[int, str]], int]:
        """Return rows of a wrong number of columns (index and reason), and how many others there are."""
        found: list[tuple[int, str]] = []

        def skip(row: Any) -> Literal["skip"]:
            found.append(
                (row.number - 1, f"expected {row.expected_columns} columns, got {row.actual_columns}")
            )
            return "skip"

        binary = dict.fromkeys(self.names, pa.binary())
        convert = self.dialect.convert_options(binary, list(self.names[:1]))
        # Behind an open quote the sentinel is no row of its own, which tells.
        table = _read(
            text.translate(_ASCII) + self._sentinel, self.names, self.dialect.parse_options(skip), convert
        )
        return found, table.num_rows - 1


def _read(
    text: pa.Buffer | bytes,
    names: Sequence[str],
    parse: pa_csv.ParseOptions,
    convert: pa_csv.ConvertOptions,
) -> pa.Table:
    """Parse a text of whole lines."""
    if text[:3] == _BYTE_ORDER_MARK:
        # Only at the beginning of a file is this no part of the first value; a blank line keeps pyarrow from
        # dropping it.
        text = b"\n" + bytes(text)
    size = len(text)
    if size == 0:
        return pa.table({name: pa.array([], convert.column_types[name]) for name in convert.include_columns})
    options = pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=size + 1)
    return pa_csv.read_csv(
        pa.BufferReader(text), read_options=options, parse_options=parse, convert_options=convert
    )

"""The beginning of a text file: where its rows begin, its column names, and what types they seem to have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from onstream.errors import StreamError
from onstream.streams.files.listing import FileFormat, SourceFile
from onstream.streams.parsing import delimited, json_objects
from onstream.streams.parsing.delimited import DelimitedParser, Dialect
from onstream.streams.parsing.json_lines import JsonLinesParser
from onstream.streams.parsing.libsvm import LibsvmParser
from onstream.streams.parsing.text import Bytes, LineParser
from onstream.streams.parsing.vowpal_wabbit import (
    INFERRED_FROM,
    VowpalWabbitParser,
    namespaces_in,
    namespaces_of,
)

__all__ = ["Head", "read_head"]

_HEAD_BYTES = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a text file.

    Attributes
    ----------
    path : Path
    start : int
        The byte at which the first row begins.
    names : tuple of str
        All columns of a delimited file, else empty.
    sample : bytes
        The first rows: whole lines.
    dialect : Dialect, optional
        Of a delimited file.
    format : FileFormat
    """

    path: Path
    start: int
    names: tuple[str, ...]
    sample: bytes
    dialect: Dialect | None
    format: FileFormat

    def infer_types(self) -> dict[str, pa.DataType]:
        """Return the types that the first rows suggest. Raises StreamError if they cannot be parsed."""
        if self.format == "jsonl":
            return json_objects.infer_types(self.sample.split(b"\n"))
        if self.format == "vw":
            namespaces = namespaces_of(self.sample.split(b"\n")[:INFERRED_FROM])
            return {f.name: f.type for f in VowpalWabbitParser(namespaces).schema}
        if self.dialect is None:
            return {f.name: f.type for f in LibsvmParser(fields=self.format == "libffm").schema}
        try:
            return delimited.infer_types(self.sample, self.names, self.dialect)
        except pa.ArrowInvalid as error:
            raise StreamError(
                f"the columns of {str(self.path)!r} cannot be inferred: {error}; give schema="
            ) from error

    def parser(self, schema: pa.Schema) -> LineParser:
        """Return what makes rows of the lines of the file. Raises StreamError for types that these cannot have."""
        if self.dialect is not None:
            return DelimitedParser(self.names, schema, self.dialect)
        if self.format == "jsonl":
            return JsonLinesParser(schema)
        columns = tuple(schema.names)
        parser: LineParser = LibsvmParser(fields=self.format == "libffm", columns=columns)
        if self.format == "vw":
            parser = VowpalWabbitParser(namespaces_in(schema), columns)
        if {f.name: f.type for f in parser.schema} != {f.name: f.type for f in schema}:
            raise StreamError(
                f"{str(self.path)!r}: columns of {self.format} text have types of their own, "
                f"{[f'{f.name}: {f.type}' for f in parser.schema]}; leave out schema="
            )
        return parser


def read_head(
    source: Bytes,
    file: SourceFile,
    dialect: Dialect | None,
    column_names: Sequence[str] | None,
    *,
    max_line_bytes: int,
    follow: bool,
) -> Head | None:
    """Return the beginning of a text file; None if there is no header yet.

    Raises
    ------
    StreamError
        If the header is not one line of UTF-8 text, is too long, or names a column twice.
    """
    headed = dialect is not None and column_names is None
    size = _HEAD_BYTES
    while True:
        data = source.read_at(0, size)
        num_bytes = len(data)
        at_end = num_bytes < size
        if at_end and not follow and data[-1:] not in (b"", b"\n"):
            data += b"\n"
        mark = len(_BYTE_ORDER_MARK) if data.startswith(_BYTE_ORDER_MARK) else 0
        start = _header_end(data, mark) if headed else mark
        end = data.rfind(b"\n") + 1
        found = start < end and (start > 0 or not headed)
        if at_end or size > max_line_bytes or found:
            break
        size *= 4
    if start == 0 and headed:
        if at_end:
            return None
        raise StreamError(f"the header of {str(file.path)!r} is longer than {max_line_bytes} bytes")
    names = tuple(column_names or ())
    if headed:
        assert dialect is not None
        try:
            names = tuple(delimited.split_header(data[mark:start].strip(b"\r\n"), dialect))
        except ValueError as error:
            raise StreamError(
                f"the header of {str(file.path)!r} is not one line of UTF-8 text: {error}"
            ) from error
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StreamError(f"{str(file.path)!r} has more than one column {twice[0]!r}; give column_names=")
    return Head(file.path, min(start, num_bytes), names, data[start:end], dialect, file.format)


def _header_end(data: bytes, start: int) -> int:
    """Return where the first line that is not blank ends; 0 if it does not."""
    while True:
        end = data.find(b"\n", start) + 1
        if end == 0 or data[start:end].strip(b"\r\n"):
            return end
        start = end

"""Files as a stream: CSV, TSV, JSON lines, Vowpal Wabbit, libsvm and libffm text, Parquet and Arrow IPC."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_args

import pyarrow as pa

from onstream.contracts import Chunk, Positions, Reject
from onstream.errors import JobError, StreamError
from onstream.streams.chunks import PAST_END, skip_to
from onstream.streams.files.columnar import columnar_rows, columnar_schema, read_columnar
from onstream.streams.files.head import Head, read_head
from onstream.streams.files.listing import FileFormat, Paths, SourceFile, is_text, list_files
from onstream.streams.pace import SYSTEM_CLOCK, Clock, EventPace, Rate, check_rate, pace
from onstream.streams.parsing.delimited import Dialect
from onstream.streams.parsing.schemas import SchemaLike, as_schema
from onstream.streams.parsing.text import DAMAGED_TEXT, Bytes, PackedBytes, PlainBytes, read_lines

__all__ = ["Files"]

_POLL_S = 0.1


@dataclass(frozen=True, init=False)
class Files:
    """Read files, one after the other in the order of their names.

    Parameters
    ----------
    path : path or sequence of paths
        Each a file, a directory, or a glob pattern. CSV, TSV, JSON lines, Vowpal Wabbit, libsvm and libffm text,
        Parquet and Arrow IPC are known by suffix; text may be compressed (``.gz``, ``.zst``).
    format : {"csv", "tsv", "jsonl", "vw", "libsvm", "libffm", "parquet", "arrow"}, optional
        Of all files, whatever they are called.
    schema : pyarrow.Schema or mapping of column to type, optional
        Types of the columns of text files; a type is a `pyarrow.DataType` or its name, such as "int64". The
        other columns' types are inferred from the first 1 MiB of the first file that holds rows. Give them
        where values at the beginning may mislead, and for files that grow.
    columns : sequence of str, optional
        Decode only these columns, where a file has them.
    column_names : sequence of str, optional
        Names of all columns of CSV and TSV files without a header. By default the first line is the header.
    delimiter : str, optional
        One character; "," for CSV and a tab for TSV by default.
    null_values : sequence of str, default ("",)
        How CSV and TSV write a missing value. A quoted value is never missing.
    follow : bool, default False
        At the end, wait for new files and for new lines of text files.
    rate : float or EventPace, optional
        Give rows no faster than this: rows a second, or as their event times went by.
    max_line_bytes : int, default 16 MiB
        Longer lines are rejected.
    clock : Clock, optional
        Time for `rate`.

    Raises
    ------
    StreamError
        While reading: if a path matches nothing (unless following), a format is unknown, a file is shorter
        than its position, lacks all wanted columns, or cannot be read.

    Notes
    -----
    A partition is one file, named by its path below the common root of the stream, so the same tree on
    another machine has the same positions. A position is the byte at which a line begins (of the
    decompressed text), or the row number for Parquet and Arrow. Finished files keep their positions.

    Nothing is lost in silence. A line that is no row becomes a `Reject`; blank lines are skipped. Of a
    damaged file the rows before the damage are read, then one reject tells of the damage and the file's
    position becomes ``2**63 - 1``: nothing more is read from it. TSV has no quoting; in CSV a quoted value
    may hold the delimiter but no line end.

    With `follow`, a text file's last line is read once its line end is there. Parquet, Arrow and compressed
    files must appear whole: write them under another name or directory, then rename.

    Examples
    --------
    >>> import tempfile, threading, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "clicks.csv")
    >>> _ = path.write_text("user,clicked\\n7,1\\n8,0\\n")
    >>> [chunk] = Files(path).read({}, max_rows=100, stop=threading.Event())
    >>> chunk.batch.to_pydict(), chunk.ends.tolist()
    ({'user': [7, 8], 'clicked': [1, 0]}, [17, 21])
    """

    path: Paths
    format: FileFormat | None
    types: pa.Schema
    columns: tuple[str, ...] | None
    column_names: tuple[str, ...] | None
    delimiter: str | None
    null_values: tuple[str, ...]
    follow: bool
    rate: Rate | None
    max_line_bytes: int
    clock: Clock

    # Written out because `schema`, the argument, is also the name of a method of every stream.
    def __init__(
        self,
        path: Paths,
        *,
        format: FileFormat | None = None,
        schema: SchemaLike | None = None,
        columns: Sequence[str] | None = None,
        column_names: Sequence[str] | None = None,
        delimiter: str | None = None,
        null_values: Sequence[str] = ("",),
        follow: bool = False,
        rate: Rate | None = None,
        max_line_bytes: int = 16 << 20,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Check and keep the arguments."""
        if format is not None and format not in get_args(FileFormat):
            raise JobError(f"format must be one of {', '.join(get_args(FileFormat))}, got {format!r}")
        if delimiter is not None and (len(delimiter) != 1 or not delimiter.isascii()):
            raise JobError(f"delimiter must be one ASCII character, got {delimiter!r}")
        if max_line_bytes < 1:
            raise JobError(f"max_line_bytes must be at least 1, got {max_line_bytes}")
        if rate is not None:
            check_rate(rate)
        facts = {
            "path": path if isinstance(path, str | os.PathLike) else tuple(path),
            "format": format,
            "types": as_schema(schema or {}),
            "columns": None if columns is None else tuple(columns),
            "column_names": None if column_names is None else tuple(column_names),
            "delimiter": delimiter,
            "null_values": tuple(null_values),
            "follow": follow,
            "rate": rate,
            "max_line_bytes": max_line_bytes,
            "clock": clock,
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def live(self) -> bool:
        """Whether it follows its files or gives rows at a pace."""
        return self.follow or self.rate is not None

    @property
    def in_turn(self) -> bool:
        """True: files are read one after the other, so that a join takes one for ended when the next begins."""
        return True

    def select(self, names: Iterable[str]) -> Files:
        """Return the same stream, decoding only these of its columns."""
        wanted = tuple(n for n in dict.fromkeys(names) if self.columns is None or n in self.columns)
        selected = copy.copy(self)
        object.__setattr__(selected, "columns", wanted)
        return selected

    def replace(self, **changes: Any) -> Files:
        """Return the same stream with some of its settings changed, checked as all settings are.

        The names are those of the attributes: given types are `types`, since `schema` is a method.
        """
        settings = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        return Files(schema=settings.pop("types"), **settings)

    def schema(self) -> pa.Schema:
        """Return the columns of the first file, as they are decoded; those given if there is no file yet."""
        files = self._files()
        for file in files:
            if not is_text(file.format):
                found = columnar_schema(file.path, file.format)
                return pa.schema([found.field(name) for name in self._choose(found.names, file)])
            with _opened(file) as source:
                head = self._head(source, file)
            if head is not None:
                return self._text_schema(head, file, self._inferred(files))
        return self.types

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Notes
        -----
        Large chunks are faster: 16384 rows is a good number.
        """
        chunks = self._read(dict(positions), max_rows, stop)
        return chunks if self.rate is None else pace(chunks, self.rate, stop, self.clock)

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how much lies after `positions`: bytes of text, or rows of Parquet and Arrow.

        None if there are both, or compressed text, whose size is not known before it is read.
        """
        files = self._files()
        kinds = {is_text(file.format) for file in files}
        if len(kinds) > 1 or any(file.compression for file in files):
            return None
        text = kinds == {True}
        total = 0
        for file in files:
            size = file.path.stat().st_size if text else columnar_rows(file.path, file.format)
            total += max(0, size - positions.get(file.partition, 0))
        return total, "bytes" if text else "rows"

    def _read(self, here: Positions, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Read what is there, again and again if following."""
        seen: dict[str, tuple[int, int]] = {}
        inferred: dict[str, pa.DataType] = {}
        while not stop.is_set():
            moved = False
            files = self._files()
            inferred = inferred or self._inferred(files)
            for file in files:
                try:
                    status = file.path.stat()
                except FileNotFoundError as error:
                    if self.follow:
                        continue
                    raise StreamError(f"{str(file.path)!r} vanished while the stream was read") from error
                mark = status.st_size, status.st_mtime_ns
                position = here.get(file.partition, 0)
                if position == PAST_END or seen.get(file.partition) == mark:
                    continue
                if is_text(file.format):
                    chunks = self._read_text(file, position, inferred, max_rows, stop)
                else:
                    choose = functools.partial(self._choose, file=file)
                    chunks = read_columnar(
                        file.path, file.format, file.partition, position, choose, max_rows=max_rows, stop=stop
                    )
                for chunk in chunks:
                    moved = True
                    here[file.partition] = chunk.next
                    yield chunk
                if stop.is_set():
                    return
                seen[file.partition] = mark
            if not self.follow:
                return
            if not moved:
                stop.wait(_POLL_S)

    def _read_text(
        self,
        file: SourceFile,
        position: int,
        inferred: dict[str, pa.DataType],
        max_rows: int,
        stop: threading.Event,
    ) -> Iterator[Chunk]:
        """Read one text file, to its end as it is now."""
        with _opened(file) as source:
            head = self._head(source, file)
            if position and not source.damage and not source.read_at(position - 1, 1):
                raise StreamError(
                    f"{str(file.path)!r} is shorter than its position, byte {position}; "
                    f"the file was replaced or cut"
                )
            if head is None:
                if source.damage:
                    reject = Reject(file.partition, position, DAMAGED_TEXT, source.damage)
                    yield skip_to(file.partition, PAST_END, [reject])
                return
            schema = self._text_schema(head, file, inferred)
            parser = head.parser(schema)
            begin = max(position, head.start)
            moved = False
            for chunk in read_lines(
                source,
                file.partition,
                begin,
                parser,
                max_rows=max_rows,
                max_line_bytes=self.max_line_bytes,
                follow=self.follow and not file.compression,
                stop=stop,
            ):
                moved = True
                yield chunk
            if begin > position and not moved and not stop.is_set():
                yield skip_to(file.partition, begin, (), schema)

    def _files(self) -> list[SourceFile]:
        """Return the files that are there now."""
        return list_files(self.path, self.format, must_match=not self.follow)

    def _head(self, source: Bytes, file: SourceFile) -> Head | None:
        """Return the beginning of a text file; None while it has no header."""
        dialect = None
        if file.format in ("csv", "tsv"):
            comma, quote = (",", '"') if file.format == "csv" else ("\t", "")
            dialect = Dialect(self.delimiter or comma, quote, self.null_values)
        follow = self.follow and not file.compression
        return read_head(
            source, file, dialect, self.column_names, max_line_bytes=self.max_line_bytes, follow=follow
        )

    def _inferred(self, files: list[SourceFile]) -> dict[str, pa.DataType]:
        """Return the types that the first text file with rows suggests, where types are not given."""
        for file in files:
            if is_text(file.format):
                with _opened(file) as source:
                    head = self._head(source, file)
                if head is not None and head.sample:
                    wanted = self._wanted() or head.names
                    known = bool(wanted) and set(wanted) <= set(self.types.names)
                    return {} if known else head.infer_types()
        return {}

    def _text_schema(self, head: Head, file: SourceFile, inferred: dict[str, pa.DataType]) -> pa.Schema:
        """Return the columns of a text file that are decoded."""
        types = inferred | dict(zip(self.types.names, self.types.types, strict=True))
        chosen = self._choose(head.names if head.dialect else list(types), file)
        if not types.keys() >= set(chosen):
            types = (head.infer_types() if head.sample else dict.fromkeys(chosen, pa.string())) | types
        return pa.schema([(name, types[name]) for name in chosen])

    def _wanted(self) -> tuple[str, ...] | None:
        """Return the columns to decode; None for all."""
        if self.columns is None or not isinstance(self.rate, EventPace):
            return self.columns
        return (*self.columns, self.rate.column)

    def _choose(self, names: Sequence[str], file: SourceFile) -> list[str]:
        """Return which columns of a file to decode, in the order of the file."""
        wanted = self._wanted()
        chosen = list(names) if wanted is None else [name for name in names if name in wanted]
        if not chosen:
            raise StreamError(f"{str(file.path)!r} has none of the columns {wanted}; it has {list(names)}")
        return chosen


@contextmanager
def _opened(file: SourceFile) -> Iterator[Bytes]:
    """Open a text file."""
    try:
        source = PackedBytes(file.path, file.compression) if file.compression else PlainBytes(file.path)
    except OSError as error:
        raise StreamError(f"cannot open {str(file.path)!r}: {error}") from error
    with closing(source):
        yield source

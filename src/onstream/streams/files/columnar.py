"""Parquet and Arrow IPC files: positions are row numbers, and only the wanted columns are decoded."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onstream.contracts import Chunk, Reject
from onstream.errors import StreamError
from onstream.streams.chunks import PAST_END, skip_to

__all__ = ["columnar_rows", "columnar_schema", "read_columnar"]

_ARROW_MAGIC = b"ARROW1\0\0"
_DAMAGE = (OSError, pa.ArrowException)

Choose = Callable[[Sequence[str]], list[str]]
"""Which of the columns of a file to decode."""


def columnar_schema(path: Path, format: str) -> pa.Schema:
    """Return the columns of a file. Raises StreamError if the file is damaged."""
    try:
        if format == "parquet":
            with pq.ParquetFile(path) as file:
                return file.schema_arrow
        with pa.OSFile(str(path)) as source, _arrow_stream(source, None) as stream:
            return stream.schema
    except _DAMAGE as error:
        _raise_unless_damage(error, path)
        raise StreamError(f"{str(path)!r} is no {format} file, or it is damaged: {error}") from error


def columnar_rows(path: Path, format: str) -> int:
    """Return the number of rows that can be read from a file."""
    status = path.stat()
    return _count(path, format, status.st_size, status.st_mtime_ns)


def read_columnar(
    path: Path,
    format: str,
    partition: str,
    position: int,
    choose: Choose,
    *,
    max_rows: int,
    stop: threading.Event,
) -> Iterator[Chunk]:
    """Yield the rows of a file from row `position` on.

    Notes
    -----
    Of a damaged file, the rows before the damage come first, as far as the format lets them be found; then
    one reject, with which the position moves to `PAST_END`.
    """
    batches = _parquet_batches if format == "parquet" else _arrow_batches
    at = position
    with closing(batches(path, position, choose, max_rows)) as found:
        while not stop.is_set():
            try:
                batch = next(found, None)
                if batch is not None:
                    # Damaged offsets would crash whoever touches the values.
                    batch.validate(full=True)
            except _DAMAGE as error:
                _raise_unless_damage(error, path)
                reject = Reject(partition, at, f"damaged {format} file", f"from row {at} on: {error}")
                yield skip_to(partition, PAST_END, [reject])
                return
            if batch is None:
                return
            for first in range(0, batch.num_rows, max_rows):
                piece = batch.slice(first, max_rows)
                at += piece.num_rows
                yield Chunk(piece, partition, at)
                if stop.is_set():
                    return


def _parquet_batches(
    path: Path, position: int, choose: Choose, max_rows: int
) -> Generator[pa.RecordBatch, None, None]:
    """Yield the rows from `position` on, one row group after the other."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = choose(file.schema_arrow.names)
        first = 0
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            skip = max(0, position - first)
            first += num_rows
            if skip >= num_rows:
                continue
            for batch in file.iter_batches(max_rows, [group], columns, use_threads=False):
                if skip < batch.num_rows:
                    yield batch.slice(skip)
                skip = max(0, skip - batch.num_rows)
    _check_rows(path, first, position)


def _arrow_batches(
    path: Path, position: int, choose: Choose, max_rows: int
) -> Generator[pa.RecordBatch, None, None]:
    """Yield the rows from `position` on, batch by batch as they were written."""
    with pa.OSFile(str(path)) as source:
        first = 0
        for num_rows, load in _stored(source, choose):
            skip = max(0, position - first)
            first += num_rows
            if skip < num_rows:
                yield load().slice(skip)
    _check_rows(path, first, position)


def _stored(source: pa.NativeFile, choose: Choose) -> Iterator[tuple[int, Callable[[], pa.RecordBatch]]]:
    """Yield the number of rows of each stored batch, and a call that loads it."""
    with _arrow_stream(source, None) as stream:
        names = stream.schema.names
    included = [names.index(name) for name in choose(names)]
    file = _arrow_file(source, [0])
    if file is not None:
        whole = _arrow_file(source, included)
        assert whole is not None
        for i in range(file.num_record_batches):
            yield file.get_batch(i).num_rows, functools.partial(whole.get_batch, i)
        return
    with _arrow_stream(source, included) as stream:
        for batch in stream:
            yield batch.num_rows, functools.partial(_same, batch)
    if _is_arrow_file(source):
        raise pa.ArrowInvalid("the footer is missing")


def _same(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch that is loaded already."""
    return batch


def _arrow_file(source: pa.NativeFile, included: list[int]) -> pa.RecordBatchFileReader | None:
    """Open an IPC file by its footer; None if this is a stream, or if the footer is damaged."""
    if not _is_arrow_file(source):
        return None
    try:
        return pa.ipc.open_file(source, options=_arrow_options(included))
    except pa.ArrowInvalid:
        return None


def _arrow_stream(source: pa.NativeFile, included: list[int] | None) -> pa.RecordBatchStreamReader:
    """Open an IPC stream, or the stream that an IPC file wraps: it needs no footer."""
    source.seek(len(_ARROW_MAGIC) if _is_arrow_file(source) else 0)
    return pa.ipc.open_stream(source, options=_arrow_options(included))


def _arrow_options(included: list[int] | None) -> pa.ipc.IpcReadOptions:
    """Return options that decode the fields `included` only, in this thread."""
    return pa.ipc.IpcReadOptions(included_fields=included, use_threads=False)


def _is_arrow_file(source: pa.NativeFile) -> bool:
    """Return whether this is an IPC file and not an IPC stream."""
    source.seek(0)
    return bool(source.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC)


@functools.lru_cache(maxsize=4096)
def _count(path: Path, format: str, size_bytes: int, changed_ns: int) -> int:
    """Count the rows of a file that is known by its size and time of change."""
    num_rows = 0
    try:
        if format == "parquet":
            with pq.ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        with pa.OSFile(str(path)) as source:
            for stored, _ in _stored(source, lambda names: list(names[:1])):
                num_rows += stored
    except _DAMAGE as error:
        _raise_unless_damage(error, path)
    return num_rows


def _check_rows(path: Path, num_rows: int, position: int) -> None:
    """Raise StreamError if a file is shorter than the position from which it was to be read."""
    if position > num_rows:
        raise StreamError(
            f"{str(path)!r} is shorter than its position: {num_rows} rows, position {position}; "
            f"the file was replaced"
        )


def _raise_unless_damage(error: Exception, path: Path) -> None:
    """Raise StreamError if the system, not the content of the file, is the cause."""
    if isinstance(error, StreamError):
        raise error
    if isinstance(error, OSError) and error.errno:
        raise StreamError(f"cannot read {str(path)!r}: {error}") from error

"""Files of ids and their vectors, read in parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv

from onstream.contracts import Keys, Rows
from onstream.errors import ColumnError, JobError
from onstream.features.columns import Mask, hash_ids, read_blocks, read_numbers

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

__all__ = ["RowFile", "read_rows"]

_FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".feather": "ipc", ".csv": "csv"}

# Rows read at once. What is read ahead is a few times as much.
_PART_ROWS = 65_536

_NUMBERED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class RowFile:
    """Ids and their vectors in a file, or in the files of a directory.

    Parameters
    ----------
    path : path
        Parquet, Arrow or CSV, by its suffix.
    id : str, optional
        The column of ids; that which the feature reads, or "id", if not given.
    vector : str, optional
        The column of lists of numbers, or what the names of numbered columns begin with, such as "d" for d0, d1 and so
        on. Found by its type if not given.
    """

    path: str | Path
    id: str | None = None
    vector: str | None = None


def read_rows(file: RowFile, feature: str, column: str, dim: int, salt: int) -> Iterator[tuple[Keys, Rows]]:
    """Yield keys and vectors of a file, part by part.

    Parameters
    ----------
    file : RowFile
    feature : str
        Whose rows these are, for errors.
    column : str
        Which that feature reads.
    dim : int
        Floats of a row.
    salt : int
        Of the feature's ids.

    Yields
    ------
    (keys, vectors)
        ndarray of uint64, shape (n,), and of float32, shape (n, dim).

    Raises
    ------
    JobError
        If the file cannot be read, has not these columns, or has a row without id or vector; the message tells which.
    """
    where = f"warm start of {feature!r} from {str(file.path)!r}"
    try:
        dataset, ids, vectors = _open(file, column, dim, where)
        read = dataset.scanner(
            columns=[ids, *vectors], batch_size=_PART_ROWS, batch_readahead=2, fragment_readahead=1
        )
        begin = 0
        for batch in read.to_batches():
            if batch.num_rows:
                yield (
                    _keys(batch.column(0), salt, begin, f"{where}, column {ids!r}"),
                    _vectors(batch, dim, begin, f"{where}, column {vectors[0]!r}"),
                )
            begin += batch.num_rows
    except (pa.ArrowException, OSError, ColumnError) as error:
        raise JobError(f"{where}: {str(error).splitlines()[0]}") from error


def _open(file: RowFile, column: str, dim: int, where: str) -> tuple[Dataset, str, list[str]]:
    """Return the file, its column of ids and its columns of vectors."""
    # It imports pandas where that is installed, a quarter of a second that no other command has to wait.
    from pyarrow.dataset import CsvFileFormat, dataset

    path = Path(file.path)
    files = (
        sorted(p for p in path.iterdir() if p.is_file() and p.suffix in _FORMATS) if path.is_dir() else [path]
    )
    if not files or not files[0].is_file():
        raise JobError(f"{where}: there is no such file")
    kind = _FORMATS.get(files[0].suffix)
    if kind is None:
        raise JobError(f"{where}: expected a file that ends in one of {', '.join(_FORMATS)}")
    texts = [str(file) for file in files]
    opened = dataset(texts, format=kind)
    names = opened.schema.names
    ids = next((name for name in (file.id or column, file.id or "id") if name in names), None)
    if ids is None:
        wanted = repr(file.id) if file.id else f"{column!r} or 'id'"
        raise JobError(
            f"{where}: there is no column {wanted}; name that of the ids with id=...; there are {names}"
        )
    if kind == "csv":
        # Texts as they are: "007" is no 7. Integers and their decimal texts have one key anyway.
        convert = pyarrow.csv.ConvertOptions(column_types={ids: pa.string()})
        opened = dataset(texts, format=CsvFileFormat(convert_options=convert))
    return opened, ids, _vector_columns(opened.schema, file.vector, ids, dim, where)


def _vector_columns(schema: pa.Schema, wanted: str | None, ids: str, dim: int, where: str) -> list[str]:
    """Return the column of lists, or the numbered columns in the order of their numbers."""
    lists = [f.name for f in schema if f.name in (wanted or f.name) and _is_list(f.type) and f.name != ids]
    lists = [name for name in lists if wanted in (None, name)]
    if len(lists) == 1:
        return lists
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in schema.names:
        match = _NUMBERED.fullmatch(name)
        if match and name != ids and wanted in (None, match[1]):
            numbered.setdefault(match[1], []).append((int(match[2]), name))
    whole = [columns for columns in numbered.values() if len(columns) == dim]
    if len(whole) == 1 and not lists:
        return [name for _, name in sorted(whole[0])]
    told = f" {wanted!r}" if wanted else ""
    raise JobError(
        f"{where}: expected one column{told} of lists, or {dim} numbered columns such as d0 to d{dim - 1}, as the "
        f"feature has dim={dim}; name it with vector=...; there are {schema.names}"
    )


def _keys(column: pa.Array, salt: int, begin: int, where: str) -> Keys:
    keys = np.empty(len(column), np.uint64)
    codes = hash_ids(column, salt, keys)
    if codes is not None:
        at = int(np.flatnonzero(codes)[0])
        raise JobError(f"{where}: row {begin + at} is no id: {column[at].as_py()!r}")
    return keys


def _vectors(batch: pa.RecordBatch, dim: int, begin: int, where: str) -> Rows:
    bad: Mask | None
    if batch.num_columns == 2 and _is_list(batch.column(1).type):
        blocks, bad = read_blocks(batch.column(1), dim)
        vectors = blocks.astype(np.float32)
    else:
        vectors = np.empty((batch.num_rows, dim), np.float32)
        for place, column in enumerate(batch.columns[1:]):
            vectors[:, place] = read_numbers(column)[0]
        wrong = np.logical_or.reduce(~np.isfinite(vectors), axis=1)
        bad = wrong if wrong.any() else None
    if bad is not None:
        at = int(np.flatnonzero(bad)[0])
        found = [column[at].as_py() for column in batch.columns[1:]]
        told = (
            f"{len(found[0])} values"
            if isinstance(found[0], list) and len(found[0]) != dim
            else str(found)[:200]
        )
        raise JobError(f"{where}: row {begin + at}: expected {dim} finite numbers, got {told}")
    return vectors


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))

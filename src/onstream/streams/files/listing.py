"""Which files a path means, in which order, and what each is called as a partition."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from onstream.errors import StreamError

__all__ = ["FileFormat", "Paths", "SourceFile", "is_text", "list_files"]

FileFormat: TypeAlias = Literal["csv", "tsv", "jsonl", "vw", "libsvm", "libffm", "parquet", "arrow"]
Paths: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

_SUFFIXES: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".vw": "vw",
    ".libsvm": "libsvm",
    ".svm": "libsvm",
    ".libffm": "libffm",
    ".ffm": "libffm",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a stream.

    Attributes
    ----------
    path : Path
    partition : str
        The path below the common root of the stream, with "/" between its parts.
    format : str
    compression : {"gzip", "zstd"} or None
        Of a text file.
    """

    path: Path
    partition: str
    format: FileFormat
    compression: str | None


def is_text(format: FileFormat) -> bool:
    """Return whether positions in such a file are bytes; otherwise they are rows."""
    return format not in ("parquet", "arrow")


def list_files(paths: Paths, format: FileFormat | None, *, must_match: bool) -> list[SourceFile]:
    """Return the files that `paths` means, sorted by partition.

    Parameters
    ----------
    paths : path or sequence of paths
        Each is a file, a directory (all files of a known format below it; names that begin with "." or "_"
        are left out), or a glob pattern (``**`` for any depth).
    format : str, optional
        Of all files; by default each file's suffix tells.
    must_match : bool
        Whether a path that matches nothing is an error.

    Raises
    ------
    StreamError
        If a path matches nothing, or if the format of a file is not known.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    roots: list[Path] = []
    found: dict[Path, SourceFile] = {}
    for entry in [os.fspath(each) for each in given]:
        root, matches = _match(entry, any_name=format is not None)
        if not matches and must_match:
            raise StreamError(
                f"no file matches {entry!r}; check the path; Files(..., follow=True) waits for one"
            )
        roots.append(root)
        for path in matches:
            kind, compression = _kind(path)
            if (kind := format or kind) is None:
                raise StreamError(
                    f"the format of {str(path)!r} is not known by its suffix; pass format=, "
                    f"one of {', '.join(get_args(FileFormat))}"
                )
            found[path] = SourceFile(path, "", kind, compression if is_text(kind) else None)
    if not roots:
        raise StreamError("path must name at least one file, directory or pattern, got an empty list")
    common = Path(os.path.commonpath(roots))
    files = [
        SourceFile(file.path, file.path.relative_to(common).as_posix(), file.format, file.compression)
        for file in found.values()
    ]
    return sorted(files, key=lambda file: file.partition)


def _match(entry: str, *, any_name: bool) -> tuple[Path, list[Path]]:
    """Return the root of one entry and its files, both absolute."""
    # Links are not resolved: names in the stream are those that the user sees.
    path = Path(os.path.abspath(entry))  # noqa: PTH100
    if path.is_dir():
        visible = (p for p in path.rglob("*") if not _hidden(p.relative_to(path)) and p.is_file())
        return path, [p for p in visible if any_name or _kind(p)[0]]
    if path.is_file() or not glob.has_magic(entry):
        return path.parent, [path] if path.is_file() else []
    fixed = []
    for part in path.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    matches = (Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207
    return Path(*fixed), [p for p in matches if p.is_file()]


def _hidden(path: Path) -> bool:
    """Return whether a part of a relative path is hidden or a marker such as _SUCCESS."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _kind(path: Path) -> tuple[FileFormat | None, str | None]:
    """Return the format and the compression by the suffixes of a name."""
    compression = _COMPRESSIONS.get(path.suffix.lower())
    name = path.with_suffix("") if compression else path
    kind = _SUFFIXES.get(name.suffix.lower())
    # Parquet and Arrow compress inside; "x.parquet.gz" is something else.
    return (None if compression and kind and not is_text(kind) else kind), compression

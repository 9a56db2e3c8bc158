"""Files whose size and checksum are known, so that a changed byte is found before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import pyarrow as pa
import xxhash

from onstream.contracts import Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["Part", "StoredFile", "check", "digest", "load", "put", "read_sealed", "seal"]

Part: TypeAlias = bytes | memoryview | pa.Buffer

_HEAD = b'{"checksum":"'
_MIDDLE = b'","content":'
_TAIL = b"}\n"
_DIGITS = 32

# No manifest comes near; a larger file is none, and reading it would take the memory of the process.
_MOST_SEALED_BYTES = 256 << 20


class MissingFileError(DamagedError):
    """A file is missing, not changed."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a checkpoint.

    Attributes
    ----------
    name : str
        In the store.
    size_bytes : int
    checksum : str
        XXH3 (128 bits) of its bytes, 32 hexadecimal digits.
    """

    name: str
    size_bytes: int
    checksum: str


def digest(data: Part) -> str:
    """Return the checksum of `data`."""
    return xxhash.xxh3_128_hexdigest(data)


def put(store: Store, name: str, parts: Iterable[Part]) -> StoredFile:
    """Write a file; its checksum is taken of the bytes as they pass, not read back."""
    checksum = xxhash.xxh3_128()

    def passing() -> Iterator[Part]:
        for part in parts:
            checksum.update(part)
            yield part

    # Stores take the parts once and in order, so they may be made while they are written.
    size = store.write(name, cast("Sequence[Part]", passing()))
    return StoredFile(name, size, checksum.hexdigest())


def load(store: Store, entry: StoredFile, *, verify: bool = True) -> pa.Buffer:
    """Return the bytes of a file, memory-mapped where the store can.

    Parameters
    ----------
    store : Store
    entry : StoredFile
    verify : bool
        Whether to check every byte, or the size alone.

    Raises
    ------
    DamagedError
        If the file is missing, has another size or another checksum; the message names it.
    """
    data = _read(store, entry.name)
    if data.size != entry.size_bytes:
        raise DamagedError(
            f"checkpoint file {entry.name!r} has {data.size} bytes, expected {entry.size_bytes}; "
            f"use another version or restore the file from a copy"
        )
    if verify:
        check(data, entry)
    return data


def check(data: pa.Buffer, entry: StoredFile) -> None:
    """Raise DamagedError unless `data` has the checksum of the file."""
    if (found := digest(data)) != entry.checksum:
        raise DamagedError(
            f"checkpoint file {entry.name!r} has checksum {found}, expected {entry.checksum}; "
            f"use another version or restore the file from a copy"
        )


def seal(content: dict[str, Any]) -> bytes:
    """Return `content` as one JSON object that carries its own checksum.

    Raises
    ------
    CheckpointError
        If `content` holds something that JSON cannot.
    """
    try:
        body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"a checkpoint's facts must be plain JSON values: {error}") from error
    return _HEAD + digest(body).encode() + _MIDDLE + body + _TAIL


def read_sealed(store: Store, name: str, *, missing_ok: bool = False) -> Any:
    """Return what `seal` sealed; with `missing_ok`, None where there is no such file.

    Raises
    ------
    DamagedError
        If the file is missing or not as it was sealed.
    """
    try:
        buffer = _read(store, name)
    except MissingFileError:
        if missing_ok:
            return None
        raise
    if buffer.size > _MOST_SEALED_BYTES:
        raise DamagedError(f"checkpoint file {name!r} has {buffer.size} bytes and is no manifest or tag")
    data = buffer.to_pybytes()
    start = len(_HEAD) + _DIGITS
    body = data[start + len(_MIDDLE) : -len(_TAIL)]
    if data != _HEAD + digest(body).encode() + _MIDDLE + body + _TAIL:
        raise DamagedError(f"checkpoint file {name!r} does not match its own checksum; use another version")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"checkpoint file {name!r} is not JSON: {error}") from error


def _read(store: Store, name: str) -> pa.Buffer:
    try:
        with store.open(name) as file:
            return file.read_buffer()
    except FileNotFoundError as error:
        raise MissingFileError(f"checkpoint file {name!r} is missing") from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint file {name!r}: {error}") from error

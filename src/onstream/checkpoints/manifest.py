"""Manifests: what one version of a checkpoint binds together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from onstream.checkpoints.files import StoredFile, read_sealed, seal
from onstream.checkpoints.segments import SegmentFile, TableShape
from onstream.checkpoints.store import is_file_name, is_text
from onstream.contracts import Positions, Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["Chain", "Manifest", "manifest_name", "manifest_versions", "plain", "read_manifest"]

FORMAT = 1

_T = TypeVar("_T")
_FILE = re.compile(r"manifests/(\d{20})\.json")
_CHECKSUM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Chain:
    """The rows of one table: a base, then deltas; later segments overwrite and delete rows of earlier ones.

    Attributes
    ----------
    shape : TableShape
    facts : dict
        JSON values kept with the table, such as its specification.
    segments : tuple of SegmentFile
        The first is the base. Empty for a table without rows.
    """

    shape: TableShape
    facts: dict[str, Any]
    segments: tuple[SegmentFile, ...]

    def after(self, older: Chain) -> tuple[SegmentFile, ...] | None:
        """Return the segments that turn the rows of `older` into those of this chain.

        Parameters
        ----------
        older : Chain
            Of the same table, from any version.

        Returns
        -------
        tuple of SegmentFile, or None
            To be applied in order; None when the table must be loaded anew, since `older` has rows that
            this chain does not have (after a rollback) or that a new base no longer tells about.

        Notes
        -----
        A segment merged from segments that `older` has is known to say the same as they do.
        """
        if self.shape != older.shape:
            return None
        names = [s.name for s in older.segments]
        known = 0
        for i, segment in enumerate(self.segments):
            sources = [segment.name] if segment.name == _at(names, known) else list(segment.merged)
            if sources and names[known : known + len(sources)] == sources:
                known += len(sources)
                continue
            # Invariant: what is left of `older` must be overwritten by this segment, or it would stay behind.
            covered = sources[: len(names) - known] == names[known:]
            is_base = i == 0 and names
            return self.segments[i:] if covered and not is_base else None
        return () if known == len(names) else None

    def adopt(self, merged: SegmentFile) -> Chain:
        """Return the chain with `merged` in the place of what it was made of; itself without those in it."""
        names = tuple(s.name for s in self.segments)
        for i in range(len(names) - len(merged.merged) + 1):
            end = i + len(merged.merged)
            if names[i:end] == merged.merged:
                return Chain(self.shape, self.facts, (*self.segments[:i], merged, *self.segments[end:]))
        return self


@dataclass(frozen=True, slots=True)
class Manifest:
    """One whole version: every file it needs by name, size and checksum, and the facts that belong to it.

    Attributes
    ----------
    version : int
        From 1 on, growing, with gaps.
    parent : int or None
        The version it was grown from, which may be gone by now.
    tables : dict of str to Chain
    states : dict of str to StoredFile
    positions : Positions
        Where the stream is to be read on.
    facts : dict
        JSON values.
    """

    version: int
    parent: int | None
    tables: dict[str, Chain] = field(default_factory=dict)
    states: dict[str, StoredFile] = field(default_factory=dict)
    positions: Positions = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def files(self) -> Iterator[StoredFile]:
        """Yield every file that this version needs."""
        for chain in self.tables.values():
            yield from chain.segments
        yield from self.states.values()

    def to_bytes(self) -> bytes:
        """Return the manifest as the bytes of its file.

        Raises
        ------
        CheckpointError
            If it could not be read back, as with a fact that is no JSON value.
        """
        content = {
            "format": FORMAT,
            "version": self.version,
            "parent": self.parent,
            "tables": {name: _chain_to_json(chain) for name, chain in self.tables.items()},
            "states": {name: _file_to_json(file) for name, file in self.states.items()},
            "positions": self.positions,
            "facts": self.facts,
        }
        # What is written can be read: a manifest that the reader would refuse is refused here.
        _Reader(manifest_name(self.version), CheckpointError).manifest(content)
        return seal(content)


def manifest_name(version: int) -> str:
    """Return the file name of a version's manifest."""
    return f"manifests/{version:020d}.json"


def manifest_versions(store: Store) -> list[int]:
    """Return the numbers of all manifests in a store, oldest first, damaged ones included."""
    found = map(_FILE.fullmatch, store.names("manifests/"))
    return [int(name[1]) for name in found if name]


def read_manifest(store: Store, version: int) -> Manifest:
    """Read a manifest; the files that it names are not looked at.

    Raises
    ------
    DamagedError
        If it is missing or changed.
    CheckpointError
        If a newer onstream wrote it.
    """
    name = manifest_name(version)
    manifest = _Reader(name, DamagedError).manifest(read_sealed(store, name))
    if manifest.version != version:
        raise DamagedError(
            f"checkpoint file {name!r} holds version {manifest.version}; it was copied or renamed"
        )
    return manifest


def plain(value: Any, place: str) -> Any:
    """Return `value` as plain JSON values: numpy numbers become numbers, tuples lists, NaN and infinity null.

    Raises
    ------
    CheckpointError
        If something in it is no JSON value; the message names its place.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise CheckpointError(f"{place}: JSON keys are strings, got {key!r}")
        return {key: plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{place}[{i}]") for i, item in enumerate(value)]
    raise CheckpointError(f"{place} must be a JSON value, got {value!r} of type {type(value).__name__}")


class _Reader:
    """Checks every value of a manifest's JSON, and raises with the file's name and the value's place."""

    def __init__(self, name: str, error: type[CheckpointError]) -> None:
        self.name = name
        self.error = error

    def manifest(self, content: Any) -> Manifest:
        if isinstance(content, dict) and content.get("format") != FORMAT:
            raise CheckpointError(
                f"checkpoint file {self.name!r} has format {content.get('format')!r}, this onstream reads "
                f"{FORMAT}; use a newer onstream"
            )
        record = self.record(
            content, "manifest", "format", "version", "parent", "tables", "states", "positions", "facts"
        )
        parent = record["parent"]
        states = self.mapping(record["states"], "states")
        positions = self.mapping(record["positions"], "positions")
        return Manifest(
            version=self.count(record["version"], "version", least=1),
            parent=None if parent is None else self.count(parent, "parent", least=1),
            tables={k: self.chain(k, v) for k, v in self.mapping(record["tables"], "tables").items()},
            states={k: self.file(v, f"states[{k!r}]") for k, v in states.items()},
            positions={k: self.count(v, f"positions[{k!r}]") for k, v in positions.items()},
            facts=self.mapping(record["facts"], "facts"),
        )

    def chain(self, table: str, value: Any) -> Chain:
        place = f"tables[{table!r}]"
        record = self.record(value, place, "dim", "width", "partitions", "facts", "segments")
        return Chain(
            shape=TableShape(
                table=table,
                dim=self.count(record["dim"], f"{place}.dim"),
                width=self.count(record["width"], f"{place}.width"),
                partitions=self.count(record["partitions"], f"{place}.partitions", least=1),
            ),
            facts=self.mapping(record["facts"], f"{place}.facts"),
            segments=tuple(
                self.segment(v, f"{place}.segments[{i}]")
                for i, v in enumerate(self.of(list, record["segments"], f"{place}.segments"))
            ),
        )

    def segment(self, value: Any, place: str) -> SegmentFile:
        own = ("rows", "deleted", "merged")
        record = self.record(value, place, "name", "size_bytes", "checksum", *own)
        file = self.file({k: v for k, v in record.items() if k not in own}, place)
        merged = self.of(list, record["merged"], f"{place}.merged")
        return SegmentFile(
            name=file.name,
            size_bytes=file.size_bytes,
            checksum=file.checksum,
            rows=self.count(record["rows"], f"{place}.rows"),
            deleted=self.count(record["deleted"], f"{place}.deleted"),
            merged=tuple(self.file_name(v, f"{place}.merged") for v in merged),
        )

    def file(self, value: Any, place: str) -> StoredFile:
        record = self.record(value, place, "name", "size_bytes", "checksum")
        checksum = self.of(str, record["checksum"], f"{place}.checksum")
        if not _CHECKSUM.fullmatch(checksum):
            self.refuse(f"{place}.checksum", "32 hexadecimal digits", checksum)
        return StoredFile(
            name=self.file_name(record["name"], f"{place}.name"),
            size_bytes=self.count(record["size_bytes"], f"{place}.size_bytes"),
            checksum=checksum,
        )

    def file_name(self, value: Any, place: str) -> str:
        name = self.of(str, value, place)
        if not is_file_name(name):
            self.refuse(place, "a relative name that stays in the store", name)
        return name

    def record(self, value: Any, place: str, *keys: str) -> dict[str, Any]:
        found = self.mapping(value, place)
        if set(found) != set(keys):
            self.refuse(place, f"the keys {sorted(keys)}", sorted(found))
        return found

    def mapping(self, value: Any, place: str) -> dict[str, Any]:
        found: dict[str, Any] = self.of(dict, value, place)
        if not all(isinstance(key, str) and is_text(key) for key in found):
            self.refuse(place, "names as keys", list(found))
        return found

    def count(self, value: Any, place: str, *, least: int = 0) -> int:
        number = self.of(int, value, place)
        if isinstance(value, bool) or number < least:
            self.refuse(place, f"a whole number from {least} on", value)
        return number

    def of(self, kind: type[_T], value: Any, place: str) -> _T:
        if not isinstance(value, kind):
            self.refuse(place, f"a JSON {kind.__name__}", value)
        found: _T = value
        return found

    def refuse(self, place: str, expected: str, got: Any) -> None:
        raise self.error(f"checkpoint file {self.name!r}: {place} must be {expected}, got {got!r:.500}")


def _chain_to_json(chain: Chain) -> dict[str, Any]:
    return {
        "dim": chain.shape.dim,
        "width": chain.shape.width,
        "partitions": chain.shape.partitions,
        "facts": chain.facts,
        "segments": [
            {**_file_to_json(s), "rows": s.rows, "deleted": s.deleted, "merged": list(s.merged)}
            for s in chain.segments
        ],
    }


def _file_to_json(file: StoredFile) -> dict[str, Any]:
    return {"name": file.name, "size_bytes": file.size_bytes, "checksum": file.checksum}


def _at(names: list[str], i: int) -> str | None:
    return names[i] if i < len(names) else None

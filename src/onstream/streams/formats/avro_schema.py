"""Avro schemas: what they say, the Arrow types of their columns, and how the core is to read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from onstream.errors import JobError

__all__ = ["AvroRecord", "AvroType", "SchemaText", "parse_schema"]

SchemaText: TypeAlias = str | bytes | Mapping[str, Any] | list[Any]

# Named types stand where they are used, so a small text can mean a large schema.
_MAX_TYPES = 20_000

_MISSING: Any = object()

_PRIMITIVES = ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
_NUMBERS = ("int", "long", "float", "double")

_PLAIN = {
    "null": (pa.null(), ""),
    "boolean": (pa.bool_(), "bool"),
    "int": (pa.int32(), "int32"),
    "long": (pa.int64(), "int64"),
    "float": (pa.float32(), "float"),
    "double": (pa.float64(), "double"),
    "bytes": (pa.binary(), "text"),
    "string": (pa.string(), "text"),
    "enum": (pa.string(), "text"),
    "fixed": (None, "fixed"),
    "array": (None, "list"),
    "map": (None, "list"),
    "record": (None, "struct"),
}

_LOGICAL = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}


@dataclass(frozen=True, slots=True)
class AvroType:
    """One type of a schema, with everything that it refers to.

    Attributes
    ----------
    kind : str
        A type of Avro, or "union".
    children : tuple of AvroType
        Fields of a record, branches of a union, or what an array or map holds.
    names : tuple of tuple of str
        Of each field of a record: its name and its aliases.
    defaults : tuple
        Of the fields of a record.
    """

    kind: str
    logical: str = ""
    precision: int = 0
    scale: int = 0
    size: int = 0
    symbols: tuple[str, ...] = ()
    children: tuple[AvroType, ...] = ()
    names: tuple[tuple[str, ...], ...] = ()
    defaults: tuple[Any, ...] = ()

    def arrow(self, *, top: bool = False) -> pa.DataType | None:
        """Return the type of a column of such values; None if there is none, as for unions of unlike types.

        Decimals are numbers at the top of a record; within other values they stay bytes.
        """
        if self.kind == "union":
            return self._of_union(top)
        if self.kind in ("array", "map"):
            inner = self.children[0].arrow()
            if inner is None:
                return None
            return pa.list_(inner) if self.kind == "array" else pa.map_(pa.string(), inner)
        if self.kind == "record":
            kinds = [
                (names[0], child.arrow()) for names, child in zip(self.names, self.children, strict=True)
            ]
            return pa.struct([(name, kind) for name, kind in kinds if kind is not None])
        if self.logical == "decimal" and top:
            return pa.decimal128(self.precision, self.scale)
        if self.kind == "fixed":
            return pa.binary(self.size) if self.size else None
        return _LOGICAL.get((self.kind, self.logical), _PLAIN[self.kind][0])

    def plan(self, *, wanted: bool = True, target: str | None = None) -> tuple[Any, ...]:
        """Return how the core reads such values; see `onstream.core.decode_avro`."""
        target = self._target() if target is None else target
        children: Iterable[tuple[Any, ...]]
        if not wanted:
            children = [child.plan(wanted=False, target="") for child in self.children]
            target = ""
        elif self.kind == "union":
            aims = ["" if child.kind == "null" else target for child in self.children]
            children = [child.plan(target=aim) for child, aim in zip(self.children, aims, strict=True)]
        elif self.kind == "record":
            children = [child.plan(wanted=child.arrow() is not None) for child in self.children]
        else:
            children = [child.plan() for child in self.children]
        return self.kind, wanted, target, self.size, list(self.symbols), list(children)

    def values(self) -> tuple[AvroType, ...]:
        """Return the branches of a union that are not null; the type itself if it is no union."""
        if self.kind != "union":
            return (self,)
        return tuple(child for child in self.children if child.kind != "null")

    def _target(self) -> str:
        if self.kind != "union":
            return _PLAIN[self.kind][1]
        values = self.values()
        if len(values) < 2:
            return values[0]._target() if values else ""
        kind = self.arrow()
        return "text" if kind == pa.string() else str(kind)

    def _of_union(self, top: bool) -> pa.DataType | None:
        values = self.values()
        if len(values) < 2:
            return values[0].arrow(top=top) if values else pa.null()
        kinds = {child.kind for child in values}
        if kinds <= {"string", "enum"}:
            return pa.string()
        if kinds <= set(_NUMBERS) and not any(child.logical for child in values):
            if kinds <= {"int", "long"}:
                return pa.int64()
            return pa.float64()
        return None


@dataclass(frozen=True)
class AvroRecord:
    """The record that messages of one schema are.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of the fields that can be columns.
    """

    type: AvroType
    schema: pa.Schema = field(init=False)

    def __post_init__(self) -> None:
        """Find the columns."""
        pairs = zip(self.type.names, self.type.children, strict=True)
        kinds = [(names[0], child.arrow(top=True)) for names, child in pairs]
        columns = pa.schema([(name, kind) for name, kind in kinds if kind is not None])
        object.__setattr__(self, "schema", columns)

    def fields(self) -> dict[str, tuple[tuple[str, ...], AvroType, Any]]:
        """Return names and aliases, type, and default (or `MISSING`) of each field, by its name."""
        rows = zip(self.type.names, self.type.children, self.type.defaults, strict=True)
        return {names[0]: (names, child, default) for names, child, default in rows}

    def plan(self, columns: set[str]) -> tuple[Any, ...]:
        """Return how the core reads such messages for some columns."""
        pairs = zip(self.type.names, self.type.children, strict=True)
        children = [child.plan(wanted=names[0] in columns) for names, child in pairs]
        return "record", True, "struct", 0, [], children

    @staticmethod
    def missing(default: Any) -> bool:
        """Return whether a field has no default."""
        return default is _MISSING


def parse_schema(given: SchemaText, max_depth: int, known: Iterable[SchemaText] = ()) -> AvroRecord:
    """Return what a schema says.

    Parameters
    ----------
    given : str, bytes, mapping or list
        JSON, or what JSON says.
    max_depth : int
        How deep types may be nested; a record alone has depth 1.
    known : iterable of schemas
        Whose names `given` may use.

    Raises
    ------
    JobError
        If it is no record, is not well formed, refers to itself, is too deep, or has arrays of values that take no
        bytes: a few bytes of a message could then claim any number of them.

    References
    ----------
    Apache Avro 1.12, "Schema Declaration", https://avro.apache.org/docs/1.12.0/specification/.
    """
    parser = _Parser(max_depth)
    for other in known:
        parser.read(_loaded(other), "", 1)
    found = parser.read(_loaded(given), "", 1)
    if found.kind != "record":
        raise JobError(f"Avro: the schema of a message must be a record, got {found.kind!r}")
    return AvroRecord(found)


def _loaded(given: SchemaText) -> Any:
    if not isinstance(given, str | bytes):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError) as error:
        raise JobError(f"Avro: the schema is not valid JSON: {error}") from error


class _Parser:
    """Reads a schema and remembers its names."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._named: dict[str, AvroType | None] = {}
        self._types = 0

    def read(self, given: Any, space: str, depth: int) -> AvroType:
        """Read one type, in the namespace `space`."""
        self._types += 1
        if depth > self._max_depth:
            raise JobError(f"Avro: the schema is nested deeper than {self._max_depth}")
        if self._types > _MAX_TYPES:
            raise JobError(f"Avro: the schema has more than {_MAX_TYPES} types")
        if isinstance(given, str):
            return AvroType(given) if given in _PRIMITIVES else self._known(given, space, depth)
        if isinstance(given, list):
            return AvroType("union", children=tuple(self.read(branch, space, depth) for branch in given))
        if not isinstance(given, Mapping) or "type" not in given:
            raise JobError(f"Avro: the schema has something that is no type: {str(given)[:80]!r}")
        kind = given["type"]
        if not isinstance(kind, str):
            return self.read(kind, space, depth)
        if kind in _PRIMITIVES:
            return self._logical(kind, given)
        if kind in ("array", "map"):
            return self._collection(kind, given, space, depth)
        if kind in ("record", "error", "enum", "fixed"):
            return self._declared(kind, given, space, depth)
        return self._known(kind, space, depth)

    def _known(self, name: str, space: str, depth: int) -> AvroType:
        """Return a type that was declared before."""
        full = name if "." in name or not space else f"{space}.{name}"
        full = full if full in self._named else name
        if full not in self._named:
            raise JobError(f"Avro: the schema uses {name!r}, which it does not declare")
        found = self._named[full]
        if found is None:
            raise JobError(f"Avro: {full!r} refers to itself, which cannot become columns")
        size, deep = _extent(found)
        self._types += size
        if depth + deep - 1 > self._max_depth:
            raise JobError(f"Avro: the schema is nested deeper than {self._max_depth}")
        return found

    def _logical(self, kind: str, given: Mapping[str, Any], size: int = 0) -> AvroType:
        logical = given.get("logicalType", "")
        precision, scale = given.get("precision", 0), given.get("scale", 0)
        if logical == "decimal":
            whole = isinstance(precision, int) and isinstance(scale, int)
            # What the specification does not allow, and what Arrow's decimal cannot hold, stays bytes.
            if (
                kind not in ("bytes", "fixed")
                or not whole
                or not 0 <= scale <= precision
                or not 0 < precision <= 38
            ):
                return AvroType(kind, size=size)
            return AvroType(kind, logical, precision, scale, size)
        return AvroType(kind, logical if isinstance(logical, str) else "", size=size)

    def _collection(self, kind: str, given: Mapping[str, Any], space: str, depth: int) -> AvroType:
        what = "items" if kind == "array" else "values"
        if what not in given:
            raise JobError(f"Avro: the schema has a type {kind!r} without {what!r}")
        inner = self.read(given[what], space, depth + 1)
        if kind == "array" and _least_bytes(inner) == 0:
            raise JobError("Avro: the schema has an array of values that take no bytes")
        return AvroType(kind, children=(inner,))

    def _declared(self, kind: str, given: Mapping[str, Any], space: str, depth: int) -> AvroType:
        """Return a type with a name, which may be used from now on."""
        name = given.get("name")
        if not isinstance(name, str) or not name:
            raise JobError(f"Avro: the schema has a type {kind!r} without a name")
        space = name.rpartition(".")[0] if "." in name else given.get("namespace", space) or ""
        full = name if "." in name or not space else f"{space}.{name}"
        self._named[full] = None
        if kind == "fixed":
            size = given.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**31:
                raise JobError(f"Avro: the size of {full!r} must be a number, got {size!r}")
            made = self._logical("fixed", given, size)
        elif kind == "enum":
            symbols = given.get("symbols")
            if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
                raise JobError(f"Avro: the symbols of {full!r} must be a list of names")
            made = AvroType("enum", symbols=tuple(symbols))
        else:
            made = self._record(full, given, space, depth)
        for alias in given.get("aliases", ()):
            if isinstance(alias, str):
                self._named.setdefault(alias if "." in alias or not space else f"{space}.{alias}", made)
        self._named[full] = made
        return made

    def _record(self, full: str, given: Mapping[str, Any], space: str, depth: int) -> AvroType:
        fields = given.get("fields")
        if not isinstance(fields, list):
            raise JobError(f"Avro: the fields of {full!r} must be a list")
        names: list[tuple[str, ...]] = []
        children, defaults = [], []
        for one in fields:
            if not isinstance(one, Mapping) or not isinstance(one.get("name"), str) or "type" not in one:
                raise JobError(f"Avro: a field of {full!r} has no name or no type")
            names.append((one["name"], *(a for a in one.get("aliases", ()) if isinstance(a, str))))
            children.append(self.read(one["type"], space, depth + 1))
            defaults.append(one.get("default", _MISSING))
        if len({first for first, *_ in names}) < len(names):
            raise JobError(f"Avro: two fields of {full!r} have one name")
        return AvroType("record", children=tuple(children), names=tuple(names), defaults=tuple(defaults))


def _extent(found: AvroType) -> tuple[int, int]:
    """Return how many types a type is made of, and how deep they are nested."""
    size, deep = 1, 0
    for child in found.children:
        inner, below = _extent(child)
        size += inner
        deep = max(deep, below)
    return size, deep + (found.kind != "union")


def _least_bytes(found: AvroType) -> int:
    """Return how many bytes a value takes at least."""
    if found.kind == "record":
        return sum(_least_bytes(child) for child in found.children)
    return {"null": 0, "fixed": found.size}.get(found.kind, 1)

"""A schema that is given, or inferred once from the first messages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import pyarrow as pa

__all__ = ["Inference", "selected"]

T = TypeVar("T")

_KEPT = 256


class Inference:
    """What a format has inferred: nothing at first, then one schema for good.

    Parameters
    ----------
    given : pyarrow.Schema, optional
        What the user said; nothing is inferred then.
    """

    def __init__(self, given: pa.Schema | None = None) -> None:
        self._schema = given
        self._lock = threading.Lock()
        self._made: dict[Hashable, Any] = {}

    def known(self) -> pa.Schema | None:
        """Return the schema if there is one by now."""
        return self._schema

    def settle(self, infer: Callable[[], pa.Schema | None]) -> pa.Schema | None:
        """Return the schema, inferring it if there is none; None if it cannot be inferred yet."""
        if self._schema is None:
            with self._lock:
                if self._schema is None:
                    self._schema = infer()
        return self._schema

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` makes for a key, made once as long as there are few keys: messages can make many."""
        made = self._made.get(key)
        if made is None:
            made = make()
            if len(self._made) < _KEPT:
                self._made[key] = made
        return cast(T, made)


def selected(schema: pa.Schema, columns: tuple[str, ...] | None, *, add: bool = False) -> pa.Schema:
    """Return the fields of `schema` that `columns` names, in the order of the schema; all of them for None.

    With `add`, columns that the schema has not are added as text: a field that no first message had may come yet.
    """
    if columns is None:
        return schema
    fields = [field for field in schema if field.name in columns]
    if add:
        fields += [pa.field(name, pa.string()) for name in columns if name not in schema.names]
    return pa.schema(fields)

"""A river model from the arrays that `pack` made of it; nothing but river's classes and plain ones is made."""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import functools
import json
import operator
import random
import re
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onstream.contracts import Array
from onstream.errors import CheckpointError
from onstream.learners.river.names import is_river, name_of, resolve

__all__ = ["unpack"]

_PATTERN_METHODS = ("findall", "finditer", "fullmatch", "match", "search", "split", "sub")
_BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (
        np.random.MT19937,
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.Philox,
        np.random.SFC64,
    )
}

# Beside river's own, what may be made of values that a checkpoint names, and by its class alone.
_CALLED = (
    *(collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, iter, operator.itemgetter, range, slice),
)
_NEW = (statistics.NormalDist,)
# What river derives containers from; its compiled classes are made by calling them, too.
_CONTAINERS = (dict, list, set, collections.deque)
_COMPILED = "river._river_rust."


def unpack(arrays: Mapping[str, Array]) -> Any:
    """Return the model that `pack` made these arrays of.

    Raises
    ------
    CheckpointError
        If they are no packed model, or name what such a model has no need of.

    Notes
    -----
    Classes of river are imported and made, and take their attributes as `copy` would give them; their methods for
    that run. No other code is run, and no name from the arrays is looked up outside of `river_names`.
    """
    try:
        root, steps = json.loads(arrays["program"].tobytes())
        made = _Unpacker(arrays)
        for step in steps:
            made.take(step)
        return made.value(root)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        # Not only Exception: river's compiled classes panic at bytes that are not theirs.
        raise CheckpointError(
            f"the stored river model cannot be read: {type(error).__name__}: {str(error)[:300]}; use the river "
            f"that wrote it"
        ) from error


class _Unpacker:
    """The objects that were made so far."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self._objects: list[Any] = []
        self._stateful: set[int] = set()
        self._make: dict[str, Callable[..., Any]] = {
            "float": float,
            "bytes": base64.b64decode,
            "scalar": lambda kind, value: np.dtype(kind).type(self.value(value)),
            "array": self._array,
            "objects": self._object_array,
            "list": list,
            "dict": dict,
            "set": set,
            "tuple": lambda *values: tuple(map(self.value, values)),
            "frozenset": lambda *values: frozenset(map(self.value, values)),
            "random": self._random,
            "numpy.random": _numpy_random,
            "name": resolve,
            "pattern": lambda text, flags: re.compile(self.value(text), self.value(flags)),
            "method": self._method,
            "partial": self._partial,
            "new": self._new,
            "call": self._call,
        }
        self._do: dict[str, Callable[..., None]] = {
            "state": self._state,
            "extend": self._extend,
            "update": self._update,
        }

    def value(self, value: Any) -> Any:
        """Return what a value in a step stands for."""
        return self._objects[value[0]] if isinstance(value, list) else value

    def take(self, step: list[Any]) -> None:
        """Do one step."""
        what, *given = step
        if what in self._do:
            self._do[what](*given)
            return
        self._objects.append(self._make[what](*given))
        if what in ("new", "call"):
            self._stateful.add(len(self._objects) - 1)

    def _array(self, number: int, across: bool) -> Array:
        array = np.array(self._arrays[f"array/{number}"])
        return array.T if across else array

    def _object_array(self, kind: str, shape: list[int], *values: Any) -> Array:
        array = np.empty(len(values), kind)
        for at, value in enumerate(values):
            array[at] = self.value(value)
        return array.reshape(shape)

    def _random(self, number: int, version: int, gauss: float | None) -> random.Random:
        made = random.Random()
        made.setstate((version, tuple(self._arrays[f"array/{number}"].tolist()), gauss))
        return made

    def _method(self, owner: Any, name: str) -> Any:
        of = self.value(owner)
        if isinstance(of, re.Pattern):
            allowed = name in _PATTERN_METHODS
        else:
            allowed = is_river(name_of(of if isinstance(of, type) else type(of))) and not name.startswith(
                "__"
            )
        found = getattr(of, name) if allowed else None
        if not callable(found):
            raise TypeError(f"{name!r} is no method that a model may have")
        return found

    def _partial(self, names: list[str], *given: Any) -> Any:
        function, *values = map(self.value, given)
        cut = len(values) - len(names)
        return functools.partial(function, *values[:cut], **dict(zip(names, values[cut:], strict=True)))

    def _new(self, name: str, *args: Any) -> Any:
        kind = resolve(name)
        if not isinstance(kind, type) or not (is_river(name) or kind in _NEW):
            raise LookupError(f"{name!r} cannot be made without a call")
        return kind.__new__(kind, *map(self.value, args))

    def _call(self, name: str, *args: Any) -> Any:
        kind = resolve(name)
        own = isinstance(kind, type) and (name.startswith(_COMPILED) or issubclass(kind, _CONTAINERS))
        if not (is_river(name) and own) and kind not in _CALLED:
            raise LookupError(f"{name!r} is not made by a call")
        return kind(*map(self.value, args))

    def _state(self, at: int, value: Any) -> None:
        if at not in self._stateful:
            raise LookupError(f"object {at} takes no attributes")
        thing, state = self._objects[at], self.value(value)
        take = getattr(thing, "__setstate__", None)
        if take is not None:
            take(state)
            return
        attributes, slots = state if isinstance(state, tuple) else (state, None)
        for name, attribute in {**(attributes or {}), **(slots or {})}.items():
            # Python looks some of these up on the object: they would be called unasked.
            if name.startswith("__"):
                raise LookupError(f"{name!r} is no attribute of a model")
            if attributes and name in attributes:
                thing.__dict__[name] = attribute
            else:
                setattr(thing, name, attribute)

    def _extend(self, at: int, *values: Any) -> None:
        thing = self._objects[at]
        if isinstance(thing, set):
            thing.update(map(self.value, values))
        elif isinstance(thing, list | collections.deque):
            thing.extend(map(self.value, values))
        else:
            raise TypeError(f"object {at} has no elements")

    def _update(self, at: int, *values: Any) -> None:
        thing = self._objects[at]
        if not isinstance(thing, dict | collections.UserDict):
            raise TypeError(f"object {at} has no items")
        plain = map(self.value, values)
        for key in plain:
            thing[key] = next(plain)


def _numpy_random(kind: str, bits: str, state: Any) -> Any:
    source = _BIT_GENERATORS[bits]()
    if kind == "Generator":
        source.state = state
        return np.random.Generator(source)
    made = np.random.RandomState(source)
    made.set_state(state)
    return made

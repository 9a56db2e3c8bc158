"""A river model as plain arrays, and back, without pickle.

The text under "program" is a JSON list of steps. Most make one object, the i-th of them object i; a value in a step is
a JSON null, boolean, number or text, or ``[i]`` for object i. The bytes of numpy arrays lie under "array/0" and on.

==============================  =========================================================================
step                            what it makes or does
==============================  =========================================================================
["float", text]                 a float that JSON has no number for
["bytes", text]                 bytes, base64
["scalar", dtype, value]        a numpy scalar
["array", k, transposed]        the array "array/k"
["objects", shape, ...values]   an array of objects
["list"], ["dict"], ["set"]     an empty one, filled later
["tuple", ...], ["frozenset"]   of these values
["random", k, version, gauss]   a `random.Random`; "array/k" has its words
["numpy.random", kind, ...]     a `RandomState` or `Generator`, and the state of its bits
["name", name]                  a class or function that `river_names.resolve` finds
["method", i, name]             a method of object i
["pattern", text, flags]        a compiled regular expression
["partial", names, f, ...]      a `functools.partial` of f and what follows, the last ones by these names
["new", name, ...args]          an object without attributes, of a class
["call", name, ...args]         an object that its class makes of these
["state", i, value]             gives object i its attributes, as `pickle` does
["extend", i, ...values]        gives a list, set or deque its elements
["update", i, ...keys, values]  gives a mapping its items, a key and its value in turn
==============================  =========================================================================
"""

from __future__ import annotations

import base64
import copyreg
import functools
import json
import math
import random
import re
import types
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from onstream.contracts import Array
from onstream.learners.river.names import is_river, name_of, resolve

__all__ = ["PackError", "pack"]

_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_BARE: dict[Any, str] = {list: "list", dict: "dict", set: "set"}

# What `object.__reduce_ex__` makes usual objects by.
_NEW: Any = object().__reduce_ex__(4)[0]

Walk = Generator[Any, Any, Any]


class PackError(TypeError):
    """An object that has no place in a packed model; the message says which and why."""


def pack(model: Any) -> dict[str, Array]:
    """Return a river model as arrays that `unpack` makes it of again, to the bit.

    Raises
    ------
    PackError
        If something in it is neither river's nor plain: a function of the user, a model of another library.

    Notes
    -----
    Takes time and memory that grow with the model: about 2 microseconds a number that it holds.
    """
    packer = _Packer()
    root = packer.run(model)
    text = json.dumps([root, packer.steps], separators=(",", ":"), allow_nan=False)
    return {"program": np.frombuffer(text.encode(), np.uint8).copy(), **packer.arrays}


class _Packer:
    """One walk over a model, each object once; without recursion, since trees may be deep."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []
        self.arrays: dict[str, Array] = {}
        self._made = 0
        self._places: dict[int, int] = {}
        self._open: set[int] = set()
        # What was met must live on, or another object could take its id.
        self._kept: list[Any] = []

    def run(self, root: Any) -> Any:
        """Write the steps for `root` and return it as a value."""
        value, walk = self._look(root)
        walks: list[Walk] = [] if walk is None else [walk]
        while walks:
            try:
                child = walks[-1].send(value)
            except StopIteration as done:
                walks.pop()
                value = done.value
                continue
            value, walk = self._look(child)
            if walk is not None:
                walks.append(walk)
        return value

    def _look(self, thing: Any) -> tuple[Any, Walk | None]:
        """Return a value that is at hand, or how to get one."""
        kind = type(thing)
        if thing is None or kind is bool or kind is int or kind is str:
            return thing, None
        if kind is float and math.isfinite(thing):
            return thing, None
        place = self._places.get(id(thing))
        if place is not None:
            return [place], None
        if id(thing) in self._open:
            raise PackError(f"{_told(thing)} contains itself")
        return None, self._walk(thing)

    def _make(self, thing: Any, *step: Any) -> list[int]:
        """Write the step that makes an object, and return its value."""
        self.steps.append(list(step))
        self._kept.append(thing)
        self._places[id(thing)] = self._made
        self._made += 1
        return [self._made - 1]

    def _array(self, array: Array) -> int:
        self.arrays[f"array/{len(self.arrays)}"] = np.array(array)
        return len(self.arrays) - 1

    def _walk(self, thing: Any) -> Walk:
        kind = type(thing)
        if kind in _BARE:
            place = self._make(thing, _BARE[kind])
            yield from self._fill(place, thing.items() if kind is dict else _ordered(thing), kind is dict)
            return place
        if kind is tuple or kind is frozenset:
            values = yield from self._within(thing, _ordered(thing))
            return self._make(thing, kind.__name__, *values)
        if kind is float:
            return self._make(thing, "float", repr(thing))
        if kind is bytes:
            return self._make(thing, "bytes", base64.b64encode(thing).decode())
        if isinstance(thing, np.ndarray | np.generic):
            return (yield from self._walk_numpy(thing))
        if kind is random.Random:
            version, words, gauss = thing.getstate()
            return self._make(thing, "random", self._array(np.array(words, np.uint32)), version, gauss)
        if isinstance(thing, np.random.RandomState | np.random.Generator):
            return self._make(thing, "numpy.random", kind.__name__, *_bits(thing))
        if kind is functools.partial:
            given = (thing.func, *thing.args, *thing.keywords.values())
            values = yield from self._within(thing, given)
            return self._make(thing, "partial", list(thing.keywords), *values)
        if _is_method(thing):
            (owner,) = yield from self._within(thing, (thing.__self__,))
            return self._make(thing, "method", owner, thing.__name__)
        if kind is re.Pattern:
            values = yield from self._within(thing, (thing.pattern, thing.flags))
            return self._make(thing, "pattern", *values)
        if isinstance(
            thing,
            type | types.FunctionType | types.BuiltinFunctionType | types.MethodDescriptorType | np.ufunc,
        ):
            return self._make(thing, "name", _name(thing))
        return (yield from self._walk_object(thing))

    def _within(self, thing: Any, parts: Any) -> Walk:
        """Return the values of what must be there before `thing` can be made."""
        self._open.add(id(thing))
        self._kept.append(thing)
        values: list[Any] = []
        for part in parts:
            value = yield part
            values.append(value)
        self._open.discard(id(thing))
        return values

    def _fill(self, place: list[int], items: Any, mapping: bool) -> Walk:
        values: list[Any] = []
        for item in items:
            if mapping:
                values.append((yield item[0]))
                values.append((yield item[1]))
            else:
                values.append((yield item))
        if values:
            self.steps.append(["update" if mapping else "extend", place[0], *values])

    def _walk_numpy(self, thing: Any) -> Walk:
        wide = thing.dtype.kind == "f" and thing.dtype.itemsize > 8
        if thing.dtype.kind not in "biufUO" or wide:
            raise PackError(f"a numpy {type(thing).__name__} of {thing.dtype} has no place in a checkpoint")
        if isinstance(thing, np.generic):
            value = yield thing.item()
            return self._make(thing, "scalar", thing.dtype.str, value)
        if thing.dtype.kind in "UO":
            values = yield from self._within(thing, thing.ravel().tolist())
            return self._make(thing, "objects", thing.dtype.str, list(thing.shape), *values)
        across = thing.flags.f_contiguous and not thing.flags.c_contiguous
        return self._make(thing, "array", self._array(thing.T if across else thing), across)

    def _walk_object(self, thing: Any) -> Walk:
        """Write an object as it describes itself to `copy` and `pickle`."""
        kind = type(thing)
        try:
            describe: Any = copyreg.dispatch_table.get(kind, lambda one: one.__reduce_ex__(4))
            described: Any = describe(thing)
        except Exception as error:
            raise PackError(f"{_told(thing)} cannot be described: {error}") from error
        if isinstance(described, str):
            raise PackError(f"{_told(thing)} is known by the name {described!r} alone")
        padded: list[Any] = [*described, None, None, None]
        make, args, state, elements, items = padded[:5]
        if make is _NEW and args[0] is kind:
            how, name, args = "new", _name(kind), args[1:]
        elif make is kind or make is iter:
            how, name = "call", _name(make)
        else:
            raise PackError(f"{_told(thing)} is made by {make!r}")
        values = yield from self._within(thing, args)
        place = self._make(thing, how, name, *values)
        if elements is not None:
            yield from self._fill(place, elements, mapping=False)
        if items is not None:
            yield from self._fill(place, items, mapping=True)
        if state is not None:
            self._kept.append(state)
            value = yield state
            self.steps.append(["state", place[0], value])
        return place


def _name(thing: Any) -> str:
    """Return the name of a class or function, if it may be named."""
    try:
        name = f"numpy:{thing.__name__}" if isinstance(thing, np.ufunc) else name_of(thing)
        found = resolve(name)
    except (LookupError, AttributeError) as error:
        raise PackError(f"{_told(thing)} is neither river's nor plain") from error
    if found is not thing:
        raise PackError(f"{_told(thing)} is not what is called {name!r}")
    return name


def _ordered(items: Any) -> Any:
    """Return the elements of a set of texts, whose order is drawn anew in each process, in an order of their own."""
    texts = isinstance(items, set | frozenset) and all(type(item) is str for item in items)
    return sorted(items) if texts else items


def _is_method(thing: Any) -> bool:
    owner = getattr(thing, "__self__", None)
    ours = isinstance(owner, re.Pattern) or is_river(name_of(type(owner)))
    return isinstance(thing, types.MethodType) or (isinstance(thing, types.BuiltinMethodType) and ours)


def _bits(source: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the kind of bits that a generator of numpy draws from, and their state as JSON values."""
    legacy = isinstance(source, np.random.RandomState)
    state = source.get_state(legacy=False) if legacy else source.bit_generator.state
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise PackError(f"a numpy generator of {state['bit_generator']} has no place in a checkpoint")
    plain: Mapping[str, Any] = json.loads(json.dumps(state, default=lambda value: value.tolist()))
    return state["bit_generator"], plain


def _told(thing: Any) -> str:
    if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
        module = getattr(thing, "__module__", None)
        what = "class" if isinstance(thing, type) else "function"
        return f"the {what} {module}.{thing.__qualname__}"
    return f"an object of {type(thing).__module__}.{type(thing).__qualname__}"

"""States as safetensors files: the arrays as tensors, the facts as JSON in the file's metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from onstream.checkpoints.files import StoredFile, load
from onstream.contracts import State, Store
from onstream.errors import CheckpointError, DamagedError

__all__ = ["read_state", "state_bytes"]

_FACTS = "onstream.facts"
_RESERVED = "__metadata__"


def state_bytes(name: str, state: State) -> bytes:
    """Return a state as the bytes of one safetensors file; equal states give equal bytes.

    Raises
    ------
    CheckpointError
        If an array's dtype has no place in safetensors, or a fact is no JSON value.
    """
    if _RESERVED in state.arrays:
        raise CheckpointError(f"state {name!r}: {_RESERVED!r} cannot name an array; use another name")
    arrays = {key: np.ascontiguousarray(a).reshape(np.shape(a)) for key, a in state.arrays.items()}
    try:
        facts = json.dumps(state.facts, default=_plain)
        return safetensors.numpy.save(arrays, metadata={_FACTS: facts})
    except (TypeError, ValueError, KeyError, RecursionError, safetensors.SafetensorError) as error:
        kinds = {key: str(a.dtype) for key, a in arrays.items()}
        raise CheckpointError(
            f"state {name!r} must hold numeric arrays and plain JSON facts: {error}; arrays are {kinds}"
        ) from error


def read_state(store: Store, entry: StoredFile, *, prefix: str = "") -> State:
    """Return the state of a file that `state_bytes` gave. Arrays own their memory and are writable.

    Parameters
    ----------
    store : Store
    entry : StoredFile
    prefix : str
        Return the arrays alone whose names begin with this, and all facts. Every byte is checked all the same.

    Raises
    ------
    DamagedError
        If the file is missing, changed or no state.
    """
    data = memoryview(load(store, entry))
    try:
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(bytes(data[8:begin]))
        facts = json.loads(header[_RESERVED][_FACTS])
        if not isinstance(facts, dict):
            raise TypeError(f"its facts are {facts!r:.100}")
        arrays = safetensors.numpy.load(_part(header, data[begin:], prefix) if prefix else bytes(data))
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedError(
            f"checkpoint file {entry.name!r} cannot be read as a state: {error!s:.500}"
        ) from error
    return State({key: a if a.flags.writeable else a.copy() for key, a in arrays.items()}, facts)


def _part(header: dict[str, Any], data: memoryview, prefix: str) -> bytes:
    """Return the arrays whose names begin with `prefix` as a safetensors file of their own."""
    chosen, parts, at = {}, [], 0
    for name, entry in header.items():
        if name.startswith(prefix) and name != _RESERVED:
            begin, end = entry["data_offsets"]
            chosen[name] = {**entry, "data_offsets": [at, at + end - begin]}
            parts.append(data[begin:end])
            at += end - begin
            # Arrays that overlap would make more bytes of few.
            if not 0 <= begin <= end or at > len(data):
                raise ValueError(f"array {name!r} lies from {begin} to {end} of {len(data)} bytes")
    head = json.dumps(chosen).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} is no JSON value")

"""What one commit binds together, and how it is written onto the version before."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from onstream.checkpoints.files import StoredFile, digest, put
from onstream.checkpoints.manifest import Chain, plain
from onstream.checkpoints.segments import SegmentFile, shape_of, write_segment
from onstream.checkpoints.states import state_bytes
from onstream.contracts import Delta, Positions, State, Store
from onstream.errors import CheckpointError

__all__ = ["Snapshot", "file_name", "grow", "put_state"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one commit binds together.

    Attributes
    ----------
    tables : mapping of str to Delta
        Rows touched since the last snapshot. A table that is not named keeps the rows it has.
    states : mapping of str to State
        All of them: a state that is not named is not in the version.
    positions : Positions
    facts : mapping
        JSON values; NaN and infinity become null.
    table_facts : mapping of str to mapping
        JSON values kept with a table; a table that is not named keeps those it has.
    replace : collection of str
        Tables whose delta is all they have: what earlier versions say of them no longer counts.
    """

    tables: Mapping[str, Delta] = field(default_factory=dict)
    states: Mapping[str, State] = field(default_factory=dict)
    positions: Positions = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    table_facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    replace: Collection[str] = ()


def grow(store: Store, name: str, chain: Chain | None, snapshot: Snapshot, version: int) -> Chain:
    """Return a table's chain with the snapshot's delta at its end."""
    facts = chain.facts if chain else {}
    facts = plain(snapshot.table_facts.get(name, facts), f"facts of table {name!r}")
    delta = snapshot.tables.get(name)
    if delta is None:
        if chain is None:
            raise CheckpointError(f"there are facts of table {name!r} and no such table")
        return replace(chain, facts=facts)
    shape = shape_of(name, delta)
    if chain is None or name in snapshot.replace:
        chain = Chain(shape, facts, ())
    if chain.shape != shape:
        raise CheckpointError(
            f"table {name!r} has {chain.shape} in the checkpoint and {shape} in this snapshot; "
            f"load and save it anew with replace={{{name!r}}}"
        )
    added: tuple[SegmentFile, ...] = ()
    if len(delta.keys) or len(delta.deleted):
        file = file_name("segments", version, name, "arrow")
        added = (write_segment(store, file, delta, table=name),)
    return Chain(shape, facts, chain.segments + added)


def put_state(store: Store, name: str, state: State, before: StoredFile | None, version: int) -> StoredFile:
    """Return the file of a state: that of the version before if it holds the same bytes, else a new one."""
    data = state_bytes(name, state)
    if before is not None and (before.size_bytes, before.checksum) == (len(data), digest(data)):
        return before
    return put(store, file_name("states", version, name, "safetensors"), [data])


def file_name(folder: str, version: int, name: str, suffix: str) -> str:
    """Return a file name that is never used twice, so that no reader ever sees a file change."""
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:64]
    return f"{folder}/{version:020d}-{readable}-{secrets.token_hex(4)}.{suffix}"

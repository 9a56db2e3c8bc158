"""What a model directory holds, in a form that can be compared bit by bit."""

from pathlib import Path

import numpy as np

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Delta

NOW_S = 40 * 86_400


def model(directory: Path, *, ttl_s: int = 3 * 86_400) -> dict[str, object]:
    """Return parameters, rows, metrics, positions and counts of the newest version.

    Rows of an expiring table whose time is over are left out: when their memory is reclaimed decides nothing.
    """
    log = CheckpointLog(LocalStore(directory))
    manifest = log.newest(verify=True)
    found: dict[str, object] = {"positions": manifest.positions}
    for name in manifest.states:
        state = log.states(manifest, name)
        found[f"state/{name}"] = (state.facts, {k: v.tobytes() for k, v in state.arrays.items()})
    for name, chain in manifest.tables.items():
        expires = "expire" in str(chain.facts.get("policy")) or name.endswith(".candidates")
        found[f"table/{name}"] = rows(log.rows(manifest, name), ttl_s if expires else None)
    found["dead letters"] = (directory / "dead_letters.jsonl").read_bytes()
    return found


def rows(deltas: list[Delta], ttl_s: int | None) -> dict[int, tuple]:
    """Return the live rows of a chain by key."""
    live: dict[int, tuple] = {}
    for delta in deltas:
        for key in delta.deleted.tolist():
            live.pop(key, None)
        for i, key in enumerate(delta.keys.tolist()):
            row = (
                int(delta.seen[i]),
                int(delta.count[i]),
                delta.weights[i].tobytes(),
                delta.state[i].tobytes(),
            )
            live[key] = row
    newest = max((row[0] for row in live.values()), default=0)
    return {k: v for k, v in live.items() if ttl_s is None or newest - v[0] <= ttl_s}


def differences(one: dict, other: dict) -> list[str]:
    """Return the names under which two models differ."""
    return [name for name in sorted({*one, *other}) if not _same(one.get(name), other.get(name))]


def _same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b

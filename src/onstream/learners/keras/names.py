"""Names for the variables of Keras models and optimizers that are the same in every process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

__all__ = ["optimizer_names", "variable_names"]

# The state of random generators, which moves on with every batch.
_RANDOM = "seed_generator_state"


def variable_names(variables: Sequence[Any]) -> list[str]:
    """Return a name for each variable of a model: "network/" or "random/", and its path.

    Notes
    -----
    Keras numbers layers that have no name of their own by how many the process has made before. Here they are
    numbered within the model, in the order of its variables, and two of one path are told apart.
    """
    known: dict[tuple[str, str], str] = {}
    siblings: Counter[tuple[str, str]] = Counter()
    seen: Counter[str] = Counter()
    names = []
    for variable in variables:
        path = ""
        for part in variable.path.split("/"):
            if (path, part) not in known:
                base = re.sub(r"_\d+$", "", part)
                at = siblings[path, base]
                siblings[path, base] += 1
                known[path, part] = base if at == 0 else f"{base}_{at}"
            path = f"{path}/{known[path, part]}"
        name = ("random" if path.endswith(_RANDOM) else "network") + path
        names.append(name if not seen[name] else f"{name}:{seen[name]}")
        seen[name] += 1
    return names


def optimizer_names(variables: Sequence[Any], trained: Sequence[Any], names: Sequence[str]) -> list[str]:
    """Return a name for each variable of an optimizer: "optimizer/", of which parameter it is, and what.

    Parameters
    ----------
    variables : sequence of keras.Variable
        Of the optimizer.
    trained, names : sequence
        The model's trainable variables, and their names.
    """
    seen: Counter[str] = Counter()
    found = []
    for variable in variables:
        # Keras calls what it keeps of a parameter by the parameter's path, and a word of its own.
        owners = [
            (len(prefix), prefix, name)
            for owner, name in zip(trained, names, strict=True)
            if variable.name.startswith(prefix := owner.path.replace("/", "_") + "_")
        ]
        if owners:
            longest = max(length for length, _, _ in owners)
            same = [(prefix, name) for length, prefix, name in owners if length == longest]
            slot = variable.name.removeprefix(same[0][0])
            # Parameters of one path have their memories in their order.
            at = seen[f"{same[0][0]}/{slot}"] % len(same)
            seen[f"{same[0][0]}/{slot}"] += 1
            found.append(f"optimizer/{same[at][1].removeprefix('network/')}/{slot}")
        else:
            found.append(f"optimizer/{variable.name}")
    return found

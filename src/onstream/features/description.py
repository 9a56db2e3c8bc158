"""Declarations as JSON, for checkpoints: what is served was declared by code that is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from onstream.contracts import RowPolicy
from onstream.errors import JobError
from onstream.features.declarations import (
    POLICIES,
    Declaration,
    EventTime,
    Group,
    Id,
    IdList,
    Label,
    Number,
    Tensor,
    Weight,
)

__all__ = ["KINDS", "declare", "declare_policy", "describe", "describe_policy"]

KINDS: Mapping[str, type[Declaration]] = {
    kind.__name__: kind for kind in (Id, IdList, Number, Tensor, Label, Weight, EventTime, Group)
}


@dataclass(frozen=True)
class _Described:
    """A policy known by its description only."""

    text: str

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.text)
        return facts


def describe(declaration: Declaration) -> dict[str, Any]:
    """Return a declaration as JSON values; what was left at its default is left out."""
    facts: dict[str, Any] = {"kind": type(declaration).__name__}
    for item in fields(declaration):
        value = getattr(declaration, item.name)
        if value != item.default:
            facts[item.name] = describe_policy(value) if item.name in POLICIES else _json(value)
    return facts


def declare(facts: Mapping[str, Any]) -> Declaration:
    """Return the declaration that `describe` described."""
    given = dict(facts)
    kind = given.pop("kind", None)
    if kind not in KINDS:
        raise JobError(f"{kind!r} is no kind of feature; there are {', '.join(KINDS)}")
    for name in POLICIES:
        if name in given:
            given[name] = declare_policy(given[name])
    if "shape" in given:
        given["shape"] = tuple(given["shape"])
    try:
        return KINDS[kind](**given)
    except TypeError as error:
        raise JobError(f"{kind}: {error}; it was described by another version of onstream") from error


def describe_policy(policy: RowPolicy | None) -> dict[str, Any] | None:
    """Return a policy as JSON values."""
    return None if policy is None else policy.describe()


def declare_policy(facts: Mapping[str, Any] | None) -> RowPolicy | None:
    """Return a policy with this description."""
    return None if facts is None else _Described(json.dumps(facts, sort_keys=True))


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

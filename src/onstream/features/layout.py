"""Which feature's rows live in which table, and where its values stand in a batch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onstream.contracts import Field, RowPolicy, TableSpec
from onstream.errors import JobError
from onstream.features.declarations import POLICIES, Feature, Id, IdList, Number, Tensor

__all__ = ["lay_out", "row_owner"]

Policy = dict[str, RowPolicy | None]


@dataclass
class _Group:
    dim: int
    policy: Policy
    features: list[str]


def lay_out(
    features: Sequence[Feature], defaults: Mapping[str, RowPolicy | None], *, plain: bool = False
) -> tuple[tuple[Field, ...], tuple[TableSpec, ...]]:
    """Group features with rows into tables by dim and policy, and give every feature its field.

    Values that stay `plain` have no rows, and so there are no tables.

    Raises
    ------
    JobError
        If a feature shares rows with one that is unknown, has none, shares itself, or is ruled otherwise.

    Notes
    -----
    Tables are named after what tells them apart: dim, kind of optimizer, and the kinds of what differs from
    the job's defaults. Settings of an optimizer are not in the name, so that they may be changed. Groups that
    would have one name are numbered from the second on.
    """
    if plain:
        return _fields(features, ()), ()
    by_name = {feature.name: feature for feature in features}
    groups: dict[str, _Group] = {}
    for feature in features:
        if _has_rows(feature):
            dim, policy = _ruled(feature, by_name, defaults)
            text = json.dumps([dim, _described(policy)], sort_keys=True)
            groups.setdefault(text, _Group(dim, policy, [])).features.append(feature.name)
    tables = _named(list(groups.values()), defaults)
    return _fields(features, tables), tables


def row_owner(feature: Feature) -> str:
    """Return the name of the feature whose rows `feature` reads."""
    shared = feature.shared if isinstance(feature, Id | IdList) else None
    return shared or feature.name


def _has_rows(feature: Feature) -> bool:
    return isinstance(feature, Id | IdList) or (isinstance(feature, Number) and feature.bounds is not None)


def _ruled(
    feature: Feature, by_name: Mapping[str, Feature], defaults: Mapping[str, RowPolicy | None]
) -> tuple[int, Policy]:
    """Return dim and policy of a feature's rows: its own, those of whom it shares with, or the job's."""
    assert not isinstance(feature, Tensor)
    owner = feature if row_owner(feature) == feature.name else _owner(feature, by_name)
    assert owner.dim is not None
    policy: Policy = {name: getattr(owner, name) or defaults.get(name) for name in POLICIES}
    if owner is feature:
        return owner.dim, policy
    if feature.dim not in (None, owner.dim):
        _refuse_share(feature, owner, f"dim={owner.dim}, not {feature.dim}")
    for name in POLICIES:
        own = getattr(feature, name)
        if own is not None and own != policy[name]:
            _refuse_share(feature, owner, f"{name}={policy[name]!r}, not {own!r}")
    return owner.dim, policy


def _owner(feature: Feature, by_name: Mapping[str, Feature]) -> Id | IdList:
    owner = by_name.get(row_owner(feature))
    if owner is None:
        known = ", ".join(map(repr, by_name))
        raise JobError(
            f"{feature.name!r} shares rows with {row_owner(feature)!r}, which is no feature; known: {known}"
        )
    if not isinstance(owner, Id | IdList):
        raise JobError(f"{feature.name!r} shares rows with {owner.name!r}, which is no Id or IdList")
    if owner.shared is not None:
        raise JobError(
            f"{feature.name!r} shares rows with {owner.name!r}, which shares those of {owner.shared!r}; "
            f"write shared={owner.shared!r}"
        )
    return owner


def _refuse_share(feature: Feature, owner: Feature, text: str) -> None:
    raise JobError(f"{feature.name!r} shares the rows of {owner.name!r}, which have {text}; leave it out")


def _named(groups: Sequence[_Group], defaults: Mapping[str, RowPolicy | None]) -> tuple[TableSpec, ...]:
    tables: list[TableSpec] = []
    usual = _described({name: defaults.get(name) for name in POLICIES})
    seen: dict[str, int] = {}
    for group in groups:
        described = _described(group.policy)
        words = [f"d{group.dim}"]
        for name in POLICIES:
            fact = described[name]
            if fact is not None and (name == "optimizer" or fact != usual[name]):
                words.append(str(fact["kind"]))
        name = "-".join(words)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}-{seen[name]}"
        tables.append(TableSpec(name, group.dim, group.policy, tuple(group.features)))
    return tuple(tables)


def _fields(features: Sequence[Feature], tables: Sequence[TableSpec]) -> tuple[Field, ...]:
    table_of = {feature: table for table in tables for feature in table.features}
    ids = dict.fromkeys((table.name for table in tables), 0)
    numbers = 0
    fields = []
    for feature in features:
        table = table_of.get(feature.name)
        if isinstance(feature, Tensor):
            fields.append(Field(feature.name, "tensor", shape=feature.shape))
        elif not _has_rows(feature):
            fields.append(Field(feature.name, "number", column=numbers))
            numbers += 1
        elif table is None:
            fields.append(Field(feature.name, "list" if isinstance(feature, IdList) else "id"))
        elif isinstance(feature, IdList):
            fields.append(
                Field(
                    feature.name,
                    "list",
                    table=table.name,
                    dim=table.dim,
                    pooling=feature.pooling,
                    length=feature.length or 0,
                )
            )
        else:
            fields.append(Field(feature.name, "id", table=table.name, column=ids[table.name], dim=table.dim))
            ids[table.name] += 1
    return tuple(fields)


def _described(policy: Mapping[str, RowPolicy | None]) -> dict[str, dict[str, object] | None]:
    return {name: None if rule is None else rule.describe() for name, rule in policy.items()}

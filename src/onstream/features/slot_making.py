"""Declarations to the slots that read their columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from onstream.contracts import Field, Keys
from onstream.core import hash_value, salt
from onstream.features.columns import read_numbers, read_truths
from onstream.features.declarations import (
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
from onstream.features.layout import row_owner
from onstream.features.plain_slots import PlainBucketSlot, PlainIdSlot, PlainListSlot
from onstream.features.slots import (
    BucketSlot,
    Domain,
    GroupSlot,
    IdSlot,
    LabelSlot,
    ListSlot,
    NumberSlot,
    Slot,
    TensorSlot,
    TimeSlot,
    WeightSlot,
)

__all__ = ["slot_of"]

_LARGEST = float(np.finfo(np.float32).max)


def slot_of(
    declaration: Declaration, fields: Mapping[str, Field], exact_index: Mapping[str, int], *, plain: bool
) -> Slot:
    """Return the slot that reads a declaration's column.

    Parameters
    ----------
    declaration : Declaration
    fields : mapping of str to Field
        Of the layout.
    exact_index : mapping of str to int
        Of numbers that are standardised, which of them each is.
    plain : bool
        Whether values stay as they are.
    """
    if plain and (slot := _plain_slot(declaration)):
        return slot
    d, column = declaration, declaration.source
    match d:
        case Id():
            field = fields[d.name]
            return IdSlot(column, field.table, field.column, salt(row_owner(d)))
        case IdList():
            return ListSlot(column, d.name, salt(row_owner(d)), d.length or 0, d.separator, d.max_length)
        case Number() if d.bounds is not None:
            field = fields[d.name]
            bounds = np.array(d.bounds)
            return BucketSlot(column, field.table, field.column, bounds, _bucket_keys(d.name, bounds))
        case Number():
            return NumberSlot(column, fields[d.name].column, d.log, d.fill, exact_index.get(d.name))
        case Tensor():
            return TensorSlot(column, d.name, d.shape, d.scale)
        case Label():
            return _label_slot(d)
        case Weight():
            return WeightSlot(column)
        case EventTime():
            return TimeSlot(column, d.unit)
        case Group():
            return GroupSlot(column, salt(d.name))


def _plain_slot(declaration: Declaration) -> Slot | None:
    """Return the slot of a declaration whose values are other than numbers when they stay plain."""
    d = declaration
    match d:
        case Id():
            return PlainIdSlot(d.source, d.name)
        case IdList():
            return PlainListSlot(d.source, d.name, d.length or 0, d.separator, d.max_length)
        case Number() if d.bounds is not None:
            return PlainBucketSlot(d.source, d.name, np.array(d.bounds))
    return None


def _label_slot(label: Label) -> LabelSlot:
    low, high, whole, expected = -_LARGEST, _LARGEST, False, "a finite number"
    read = read_numbers
    if label.task == "binary" and label.threshold is None:
        read, low, high, whole, expected = read_truths, 0.0, 1.0, True, "0 or 1"
    if label.classes is not None:
        low, high, whole = 0.0, label.classes - 1.0, True
        expected = f"a whole number from 0 to {label.classes - 1}"
    domain = Domain(low, high, whole, expected)
    return LabelSlot(label.source, label.name, read, domain, label.threshold, required=label.required)


def _bucket_keys(name: str, bounds: npt.NDArray[np.float64]) -> Keys:
    """Return the key of each bucket, and last that of nulls. A bucket is named by its two bounds."""
    edges = [-np.inf, *bounds.tolist(), np.inf]
    texts = [f"[{low!r}, {high!r})" for low, high in itertools.pairwise(edges)]
    return np.array([hash_value(text, salt(name)) for text in [*texts, None]], np.uint64)

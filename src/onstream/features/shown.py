"""Encoded rows as people can read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from onstream.contracts import Batch, Field, Keys, Layout

__all__ = ["readable"]


def readable(layout: Layout, batch: Batch) -> Iterator[dict[str, Any]]:
    """Yield each row of a batch as what a person can read: features, labels and the weight by name."""
    for row in range(batch.num_rows):
        texts: dict[str, Any] = {}
        for field in layout.fields:
            if field.kind == "number":
                texts[field.name] = float(batch.numbers[row, field.column])
            elif field.kind == "tensor":
                block = batch.tensors[field.name][row]
                sides = " x ".join(map(str, field.shape))
                texts[field.name] = f"{sides} from {block.min():g} to {block.max():g}"
            elif batch.columns is not None:
                texts[field.name] = batch.columns[field.name][row]
            else:
                keys = _row_keys(layout, batch, field, row)
                what = " ".join(f"{int(key):016x}" for key in keys) or "none"
                texts[field.name] = f"key{'s' * (field.kind == 'list')} {what} in {field.table}"
        texts.update({name: float(values[row]) for name, values in batch.labels.items()})
        if batch.weights is not None:
            texts["weight"] = float(batch.weights[row])
        yield texts


def _row_keys(layout: Layout, batch: Batch, field: Field, row: int) -> Keys:
    ids = len(layout.ids(field.table))
    keys = batch.keys[field.table]
    if field.kind == "id":
        at = row * ids + field.column
        return keys[at : at + 1]
    begin = batch.num_rows * ids
    for other in layout.lists(field.table):
        padded = other.pooling == "pad"
        if other.name == field.name:
            break
        begin += batch.num_rows * other.length if padded else int(batch.offsets[other.name][-1])
    if padded:
        own: Keys = keys[begin + row * field.length : begin + (row + 1) * field.length]
        return own[np.flatnonzero(own)]
    first, last = batch.offsets[field.name][row : row + 2]
    return keys[begin + first : begin + last]

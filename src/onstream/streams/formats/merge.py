"""Rows that were decoded apart, put together in the order of their messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from onstream.streams.chunks import no_rows
from onstream.streams.formats.format import Decoded, Undecodable

__all__ = ["merged", "with_columns"]


def merged(schema: pa.Schema, parts: Sequence[Decoded], rejects: Sequence[Undecodable] = ()) -> Decoded:
    """Return all rows of `parts`, whose batches are of `schema`, and all rejects with `rejects`."""
    every = sorted([*rejects, *(r for part in parts for r in part.rejects)], key=lambda reject: reject.index)
    parts = [part for part in parts if part.batch.num_rows]
    if not parts:
        return Decoded(no_rows(schema), np.empty(0, np.int64), every)
    if len(parts) == 1:
        return Decoded(parts[0].batch, parts[0].sources, every)
    batch = pa.concat_batches([part.batch for part in parts])
    sources = np.concatenate([part.sources for part in parts])
    if np.all(sources[1:] >= sources[:-1]):
        return Decoded(batch, sources, every)
    order = np.argsort(sources, kind="stable")
    return Decoded(batch.take(pa.array(order)), sources[order], every)


def with_columns(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the columns of `schema`, which have its types; null where the batch has not got them."""
    columns = [
        batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)

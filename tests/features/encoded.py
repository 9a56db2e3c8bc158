"""What the tests of features share: a short way to encode, and to look at what came out."""

import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from onstream.contracts import Batch
from onstream.features import Features


class Spot(NamedTuple):
    partition: str
    starts: np.ndarray


@dataclass(frozen=True)
class Rule:
    """A policy of any kind."""

    kind: str
    value: float = 0.0

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "value": self.value}


def rows(**columns: Any) -> pa.RecordBatch:
    """A record batch of these columns, with a label "y" of ones unless one is given."""
    num_rows = len(next(iter(columns.values())))
    return pa.RecordBatch.from_pydict({"y": [1] * num_rows, **columns})


def encode(features: Features, *batches: pa.RecordBatch, learn: bool = True) -> Batch:
    """Encode record batches that follow each other in partition "p", at positions from 0 on."""
    begins = np.cumsum([0, *(batch.num_rows for batch in batches)])
    spots = [
        Spot("p", np.arange(begin, begin + batch.num_rows))
        for begin, batch in zip(begins[:-1], batches, strict=True)
    ]
    return features.encode(batches, spots, {"p": int(begins[-1])}, learn=learn)


def keys_of(features: Features, batch: Batch, name: str) -> list[Any]:
    """The keys of a feature, by row: one for an id, a list for a list."""
    field = next(f for f in features.layout.fields if f.name == name)
    ids = len(features.layout.ids(field.table))
    keys = batch.keys[field.table]
    block = keys[: batch.num_rows * ids].reshape(batch.num_rows, ids)
    if field.kind == "id":
        return block[:, field.column].tolist()
    begin = block.size
    for other in features.layout.lists(field.table):
        size = batch.num_rows * other.length if other.pooling == "pad" else batch.offsets[other.name][-1]
        own = keys[begin : begin + size]
        begin += size
        if other.name == name and other.pooling == "pad":
            return own.reshape(batch.num_rows, field.length).tolist()
        if other.name == name:
            offsets = batch.offsets[name]
            return [own[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    raise AssertionError(name)


def reasons(batch: Batch) -> list[tuple[int, str]]:
    """Position and reason of each reject."""
    return [(reject.position, reject.reason) for reject in batch.rejects]

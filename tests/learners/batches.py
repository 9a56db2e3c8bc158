"""Batches for learners, made by hand."""

import numpy as np

from onstream.contracts import Batch, Field, Label, Layout, State, TableSpec

CLICK = (Label("y", "binary"),)


def layout(*, ids=3, dim=4, numbers=1, labels=CLICK, lists=(), weighted=False) -> Layout:
    fields = [Field(f"id{j}", "id", table="t", column=j, dim=dim) for j in range(ids)]
    fields += [Field(f"n{j}", "number", column=j) for j in range(numbers)]
    fields += [Field(name, "list", table="t", dim=dim, pooling=p, length=n) for name, p, n in lists]
    return Layout(tuple(fields), tuple(labels), (TableSpec("t", dim, {}, ("id0",)),), weighted)


def batch(rows=6, *, ids=3, numbers=1, labels=None, weights=None, lists=None, seed=0, keys=None) -> Batch:
    rng = np.random.default_rng(seed)
    own = rng.integers(1, 50, rows * ids).astype(np.uint64) if keys is None else keys
    offsets = {}
    for name, lengths in (lists or {}).items():
        offsets[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        own = np.concatenate([own, rng.integers(1, 50, sum(lengths)).astype(np.uint64)])
    return Batch(
        num_rows=rows,
        keys={"t": own},
        offsets=offsets,
        numbers=rng.standard_normal((rows, numbers)).astype(np.float32),
        tensors={},
        labels=labels or {"y": (rng.random(rows) < 0.5).astype(np.float32)},
        weights=weights,
        groups={},
        now=0,
        positions={},
        rejects=(),
        state=State(),
    )


def rows_of(batch: Batch, dim=4, seed=1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((64, dim)).astype(np.float32)
    return {"t": table[batch.keys["t"].astype(np.int64) % 64]}


def drawn(layout: Layout, rows: int, seed=0) -> tuple[Batch, dict[str, np.ndarray]]:
    """Return a batch of any layout, and the rows of its keys."""
    rng = np.random.default_rng(seed)
    keys, offsets, pulled = {}, {}, {}
    for spec in layout.tables:
        own = [rng.integers(1, 60, rows * len(layout.ids(spec.name)))]
        for field in layout.lists(spec.name):
            if field.pooling == "pad":
                own.append(rng.integers(0, 60, rows * field.length) * rng.integers(0, 2, rows * field.length))
            else:
                offsets[field.name] = np.concatenate([[0], np.cumsum(rng.integers(0, 4, rows))]).astype(
                    np.int64
                )
                own.append(rng.integers(1, 60, offsets[field.name][-1]))
        keys[spec.name] = np.concatenate(own).astype(np.uint64)
        table = np.random.default_rng(1).standard_normal((64, spec.dim)).astype(np.float32)
        table[0] = 0
        pulled[spec.name] = table[keys[spec.name].astype(np.int64)]
    labels = {
        label.name: rng.integers(0, label.classes or 2, rows).astype(np.float32) for label in layout.labels
    }
    numbers = sum(field.kind == "number" for field in layout.fields)
    made = Batch(
        num_rows=rows,
        keys=keys,
        offsets=offsets,
        numbers=rng.standard_normal((rows, numbers)).astype(np.float32),
        tensors={
            field.name: rng.standard_normal((rows, *field.shape)).astype(np.float32)
            for field in layout.fields
            if field.kind == "tensor"
        },
        labels=labels,
        weights=None,
        groups={},
        now=0,
        positions={},
        rejects=(),
        state=State(),
    )
    return made, pulled

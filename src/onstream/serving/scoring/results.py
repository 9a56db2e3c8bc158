"""Requests and a version to results: one row for each request, with what it needs to be found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from onstream.contracts import Array, Chunk, Label, Predictions
from onstream.errors import JobError
from onstream.serving.version import Version
from onstream.streams import prediction_columns
from onstream.streams.chunks import row_ends

__all__ = ["FACTS", "check_names", "results_of"]

FACTS = ("model_version", "partition", "offset", "error")
"""Columns of a result beside the keys and the predictions."""


def check_names(keys: Sequence[str], labels: Sequence[Label]) -> None:
    """Refuse keys that would be called as another column of the results. Raises JobError."""
    taken = {*FACTS, *(label.name for label in labels)}
    if clash := [key for key in keys if key in taken]:
        raise JobError(
            f"the key {clash[0]!r} is also what a column of the results is called; the others are {sorted(taken)}"
        )


def results_of(chunk: Chunk, version: Version, keys: Sequence[str]) -> pa.RecordBatch:
    """Score one chunk of requests.

    Parameters
    ----------
    chunk : Chunk
    version : Version
    keys : sequence of str
        Columns of the requests that their results keep; null where a request has none.

    Returns
    -------
    pyarrow.RecordBatch
        The keys; one column for each label, float32, or a list of float32 for classes; "model_version" (int64),
        "partition" and "offset" of the request in its stream, and "error": why it has no prediction, or null.
        A row for each request in order, and then one for each that could not be decoded.

    Raises
    ------
    CheckpointError
        If the network fails.
    """
    count, num_rejects = chunk.batch.num_rows, len(chunk.rejects)
    predictions, unread = version.score(chunk.batch) if count else ({}, ())
    errors: list[str | None] = [None] * count
    for reject in unread:
        errors[reject.position] = _told(reject.reason, reject.value)
    errors += [_told(reject.reason, reject.value) for reject in chunk.rejects]
    good = np.array([error is None for error in errors], bool)
    offsets = np.concatenate(
        (row_ends(chunk) - 1, np.array([reject.position for reject in chunk.rejects], np.int64))
    )
    columns: dict[str, pa.Array] = {}
    for key in keys:
        column = chunk.batch.column(key) if key in chunk.batch.schema.names else pa.nulls(count)
        columns[key] = pa.concat_arrays([column, pa.nulls(num_rejects, column.type)])
    columns |= _predicted(predictions, version.signature.outputs, good)
    columns["model_version"] = pa.array(np.full(len(errors), version.version, np.int64))
    columns["partition"] = pa.array([chunk.partition] * len(errors), pa.string())
    columns["offset"] = pa.array(offsets, pa.int64())
    columns["error"] = pa.array(errors, pa.string())
    return pa.RecordBatch.from_pydict(columns)


def _predicted(predictions: Predictions, labels: Sequence[Label], good: Array) -> Mapping[str, pa.Array]:
    """Return the predictions as columns, null for the rows that are not good."""
    columns: dict[str, pa.Array] = {}
    places = pa.array(np.where(good, np.cumsum(good) - 1, 0), mask=~good)
    for label in labels:
        kind = pa.list_(pa.float32()) if label.classes else pa.float32()
        if label.name in predictions:
            made = prediction_columns({label.name: predictions[label.name]}).column(0)
            columns[label.name] = made.cast(kind).take(places)
        else:
            columns[label.name] = pa.nulls(len(good), kind)
    return columns


def _told(reason: str, value: str) -> str:
    return f"{reason}, got {value!r}" if value else reason

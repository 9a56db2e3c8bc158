"""A record of what was predicted, by which version, in an embedded log."""

from __future__ import annotations

import logging
import queue
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from onstream.errors import OnstreamError
from onstream.serving.metrics import ModelMetrics, Route
from onstream.serving.model import Answer
from onstream.streams import Log

__all__ = ["SCHEMA", "Recorder"]

SCHEMA = pa.schema(
    [
        ("time", pa.float64()),
        ("request", pa.uint64()),
        ("row", pa.int32()),
        ("route", pa.string()),
        ("version", pa.int64()),
        ("label", pa.string()),
        ("prediction", pa.list_(pa.float32())),
    ]
)

_log = logging.getLogger(__name__)

_DEPTH = 4096
_JOINED = 256


class _Entry(NamedTuple):
    time: float
    request: int
    route: Route
    answer: Answer


class Recorder:
    """Keep what was predicted in an embedded log, one row for each row, label and version.

    Parameters
    ----------
    path : path
        Of the log.
    metrics : ModelMetrics
        Told of requests that are not recorded.

    Notes
    -----
    The columns are `SCHEMA`: seconds since 1970, an id of the request, the row's number in it, the route
    ("usual", "canary" or "shadow"), version, label, and the prediction, which for a class label is one number for
    each class. What answer and shadow said of a row have the same request, row and label.

    A thread of its own writes. What it has no time for is left out and counted, so that requests never wait.
    """

    def __init__(self, path: str | Path, metrics: ModelMetrics) -> None:
        """Open the log and start the thread."""
        self._kept = Log(path)
        self._metrics = metrics
        self._queue: queue.Queue[_Entry | None] = queue.Queue(_DEPTH)
        self._thread = threading.Thread(target=self._write_all, name="onstream-recorder", daemon=True)
        self._thread.start()

    def add(self, request: int, route: Route, answer: Answer) -> None:
        """Have an answer recorded."""
        try:
            self._queue.put_nowait(_Entry(time.time(), request, route, answer))
        except queue.Full:
            self._metrics.unrecorded()

    def close(self) -> None:
        """Write what is left. Closing again does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._kept.close()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            entries = [self._queue.get()]
            # One append costs a sync of the disk, whatever it holds.
            while len(entries) < _JOINED and entries[-1] is not None and not self._queue.empty():
                entries.append(self._queue.get())
            ended = entries[-1] is None
            found = [_rows(entry) for entry in entries if entry is not None]
            try:
                if found:
                    self._kept.append(pa.concat_batches(found))
            except OnstreamError:
                _log.exception("predictions cannot be recorded")
                for _ in found:
                    self._metrics.unrecorded()


def _rows(entry: _Entry) -> pa.RecordBatch:
    parts = []
    for label, values in entry.answer.predictions.items():
        size = len(values)
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        offsets = np.linspace(0, len(flat), size + 1).astype(np.int32)
        columns = [
            pa.repeat(pa.scalar(entry.time, pa.float64()), size),
            pa.repeat(pa.scalar(entry.request, pa.uint64()), size),
            pa.array(np.arange(size, dtype=np.int32)),
            pa.repeat(entry.route, size),
            pa.repeat(pa.scalar(entry.answer.version, pa.int64()), size),
            pa.repeat(label, size),
            pa.ListArray.from_arrays(offsets, flat),
        ]
        parts.append(pa.record_batch(columns, schema=SCHEMA))
    return pa.concat_batches(parts)

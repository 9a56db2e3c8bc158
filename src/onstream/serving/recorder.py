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

# Rows of the record: a million predictions of one number are some 4 MiB while they wait.
_DEPTH = 1 << 20
# An append has at most so many, and those of one more request: each needs some 60 bytes and its words.
_JOINED = 1 << 16
_CLOSE_S = 2.0


class _Entry(NamedTuple):
    time: float
    request: int
    route: Route
    answer: Answer

    @property
    def cost(self) -> int:
        """Rows that it makes, and at least 1, so that what waits is bounded."""
        return max(1, sum(len(values) for values in self.answer.predictions.values()))


class Recorder:
    """Keep what was predicted in an embedded log, one row for each row, label and version.

    Parameters
    ----------
    path : path
        Of the log.
    metrics : ModelMetrics
        Told of requests that are not recorded.
    depth : int
        Rows of the record that may wait to be written; a request is taken if there are fewer.

    Notes
    -----
    The columns are `SCHEMA`: seconds since 1970, an id of the request, the row's number in it, the route
    ("usual", "canary" or "shadow"), version, label, and the prediction, which for a class label is one number for
    each class. What answer and shadow said of a row have the same request, row and label.

    A thread of its own writes. What it has no time for is left out and counted, so that requests never wait.
    """

    def __init__(self, path: str | Path, metrics: ModelMetrics, *, depth: int = _DEPTH) -> None:
        """Open the log and start the thread."""
        self._kept = Log(path)
        self._metrics = metrics
        self._depth = depth
        self._waiting = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="onstream-recorder", daemon=True)
        self._thread.start()

    def add(self, request: int, route: Route, answer: Answer) -> None:
        """Have an answer recorded."""
        entry = _Entry(time.time(), request, route, answer)
        with self._lock:
            taken = self._waiting < self._depth
            if taken:
                self._waiting += entry.cost
                self._queue.put(entry)
        if not taken:
            self._metrics.unrecorded()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Write what is left, if that takes no longer than `timeout_s`. Closing again does nothing."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout_s)
            # A write that is stuck still needs it.
            if not self._thread.is_alive():
                self._kept.close()

    def _write_all(self) -> None:
        ended = False
        while not ended:
            entries, ended = self._joined()
            try:
                if entries:
                    self._kept.append(pa.concat_batches([_rows(entry) for entry in entries]))
            except Exception:
                # Whatever it is, the next may be recorded, and those who ask are answered.
                _log.exception("predictions cannot be recorded")
                for _ in entries:
                    self._metrics.unrecorded()
            with self._lock:
                self._waiting -= sum(entry.cost for entry in entries)

    def _joined(self) -> tuple[list[_Entry], bool]:
        """Wait for a request, and return it with those that wait behind it, and whether it is time to end."""
        entries: list[_Entry] = []
        rows = 0
        # One append costs a sync of the disk, whatever it holds.
        while rows < _JOINED and (not entries or not self._queue.empty()):
            entry = self._queue.get()
            if entry is None:
                return entries, True
            entries.append(entry)
            rows += entry.cost
        return entries, False


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

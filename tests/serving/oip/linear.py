"""A model for the tests of the wires: a linear function of its columns, computed by another thread."""

import threading
import zlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from onstream.contracts import Label
from onstream.errors import DeadlineError, NotFoundError, RequestError, UnavailableError
from onstream.serving.model import Answer, Input, Signature

SIGNATURE = Signature(
    inputs=(
        Input("user", ("id",)),
        Input("seen", ("list",), (-1,)),
        Input("price", ("number",)),
        Input("image", ("tensor",), (2, 3)),
        Input("hour", ("id", "number")),
    ),
    outputs=(Label("click", "binary"), Label("rating", "real"), Label("kind", "class", 3)),
)

_CENTRES = np.array([0.0, 1.0, 2.0], np.float32)


class FakeModel:
    """A linear function of its columns; version `v` gives `v` times the rating of version 1."""

    def __init__(self, name: str = "ads", signature: Signature = SIGNATURE) -> None:
        self.name = name
        self.loaded: tuple[int, ...] = (2, 1)
        self.reason: str | None = None
        self.broken: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.cancelled = threading.Event()
        self.timeouts: list[float | None] = []
        self.batches: list[pa.RecordBatch] = []
        self.pending: list[Future[Answer]] = []
        self.deaf = False
        self._signature = signature
        self._threads = ThreadPoolExecutor(4)

    def signature(self) -> Signature:
        if not self.loaded:
            raise UnavailableError(f"model {self.name!r} has no version yet")
        return self._signature

    def versions(self) -> tuple[int, ...]:
        return self.loaded

    def not_ready(self) -> str | None:
        return self.reason

    def predict(self, rows: pa.RecordBatch, *, version=None, timeout_s=None) -> Future[Answer]:
        chosen = self.loaded[0] if version is None else version
        if chosen not in self.loaded:
            raise NotFoundError(f"version {chosen} of model {self.name!r} is not loaded")
        if self.broken is not None:
            raise self.broken
        self.timeouts.append(timeout_s)
        self.batches.append(rows)
        future: Future[Answer] = Future()
        self.pending.append(future)
        future.add_done_callback(lambda done: self.cancelled.set() if done.cancelled() else None)
        self._threads.submit(self._run, future, rows, chosen, timeout_s)
        return future

    def close(self) -> None:
        self.open.set()
        self._threads.shutdown()

    def _run(
        self, future: Future[Answer], rows: pa.RecordBatch, version: int, timeout_s: float | None
    ) -> None:
        self.begun.set()
        in_time = self.open.wait(None if self.deaf else timeout_s)
        if not future.set_running_or_notify_cancel():
            return
        try:
            if not in_time:
                raise DeadlineError(f"not computed within {timeout_s} s")
            with np.errstate(all="ignore"):
                rating = ratings(rows) * np.float32(version)
                kinds = np.abs(rating[:, None] - _CENTRES)
                click = np.tanh(np.abs(rating))
            future.set_result(Answer({"click": click, "rating": rating, "kind": kinds}, version))
        except Exception as error:
            future.set_exception(error)


def ratings(rows: pa.RecordBatch) -> np.ndarray:
    """Return the rating of each row, the same whatever types its columns have."""
    total = np.zeros(rows.num_rows, np.float64)
    for row, values in enumerate(rows.to_pylist()):
        for name, value in sorted(values.items()):
            if name == "price" and value is not None and np.isinf(value):
                raise RequestError(f"column 'price', row {row}: must be finite, got {value}")
            total[row] += worth(name, value)
    return total.astype(np.float32)


def worth(name: str, value: object) -> float:
    """Return what a value adds to the rating."""
    if value is None or value != value:
        return 0.125
    if isinstance(value, list):
        return sum(worth(name, one) for one in value if one is not None)
    if name in ("price", "image"):
        return float(value)  # type: ignore[arg-type]
    return zlib.crc32(f"{name}={value}".encode()) % 1000 / 1000

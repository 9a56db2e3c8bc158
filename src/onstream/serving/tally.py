"""What a server did since it was last asked, in a few numbers for people."""

from __future__ import annotations

import threading
import time
from collections import deque

import numpy as np

__all__ = ["Tally"]

# Of so many newest ones: percentiles of more would say nothing else.
_KEPT = 4096

# Versions come every few moments, not many a second: freshness is that of the last seconds.
_FRESH_S = 10.0


class Tally:
    """Count what happens between two looks. All methods may be called from any thread."""

    def __init__(self) -> None:
        """Begin now."""
        self._lock = threading.Lock()
        self._freshness: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._begin()

    def request(self, seconds: float, rows: int, *, answered: bool) -> None:
        """Count a request for predictions, or for anything else that has rows, that has ended."""
        with self._lock:
            self._seconds.append(seconds)
            self._requests += 1
            self._rows += rows
            self._refused += not answered

    def fresh(self, seconds: float) -> None:
        """Count the age of data, from its arrival, when a version that knows it began to answer."""
        with self._lock:
            self._freshness.append((time.monotonic(), seconds))

    def take(self) -> dict[str, float]:
        """Return the numbers since the last call, and begin anew; the freshness is that of the last 10 seconds."""
        with self._lock:
            took = max(time.monotonic() - self._began, 1e-9)
            found = {
                "requests_per_s": self._requests / took,
                "rows_per_s": self._rows / took,
                "refused_per_s": self._refused / took,
            }
            if self._seconds:
                p50, p99 = np.percentile(self._seconds, (50, 99))
                found |= {"p50_s": float(p50), "p99_s": float(p99)}
            since = time.monotonic() - _FRESH_S
            if fresh := [seconds for told, seconds in self._freshness if told >= since]:
                p50, p99 = np.percentile(fresh, (50, 99))
                found |= {"freshness_p50_s": float(p50), "freshness_p99_s": float(p99)}
            self._begin()
        return found

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._seconds: deque[float] = deque(maxlen=_KEPT)
        self._requests = self._rows = self._refused = 0

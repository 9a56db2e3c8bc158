"""When things of a run are due, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from onstream.trainer.settings import Settings

__all__ = ["Schedule"]


class Schedule:
    """When a checkpoint or a report is due, and how fast examples go by. Decides nothing that is learned."""

    def __init__(self, settings: Settings, examples: int) -> None:
        now = time.monotonic()
        self._settings = settings
        self._begin = now
        self._checkpoint_at = now
        self._report_at = now
        self.longest_pause_s = 0.0
        self._examples = examples
        self._rate = 0.0

    def checkpoint_due(self) -> bool:
        """Return whether it is time for a checkpoint."""
        return time.monotonic() - self._checkpoint_at >= self._settings.pace("checkpoint_every_s")

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Time the taking of a checkpoint."""
        begin = time.monotonic()
        yield
        self._checkpoint_at = time.monotonic()
        self.longest_pause_s = max(self.longest_pause_s, self._checkpoint_at - begin)

    def running_s(self) -> float:
        """Return the seconds since the run began."""
        return time.monotonic() - self._begin

    def checkpoint_age_s(self) -> float:
        """Return the seconds since the last checkpoint was taken, or since the run began."""
        return time.monotonic() - self._checkpoint_at

    def report_due(self) -> bool:
        """Return whether it is time for a report."""
        return time.monotonic() - self._report_at >= self._settings.report_every_s

    def rate(self, examples: int) -> float:
        """Return the examples a second since the last report, and begin the next."""
        now = time.monotonic()
        # A report right after another, at the end, must not take the job for a slow one.
        if examples > self._examples or now - self._report_at >= self._settings.report_every_s:
            self._rate = (examples - self._examples) / max(now - self._report_at, 1e-9)
        self._examples, self._report_at = examples, now
        return self._rate

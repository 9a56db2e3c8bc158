"""Where metrics are reported to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

__all__ = ["Sink"]


@runtime_checkable
class Sink(Protocol):
    """A place that metrics are reported to, such as TensorBoard or Prometheus."""

    def write(self, metrics: Mapping[str, float], *, step: int, wall_time: float) -> None:
        """Report metrics.

        Parameters
        ----------
        metrics : mapping of str to float
            Parts of a name are separated by "/", as in "click/window/auc". NaN means undefined.
        step : int
            Examples seen by the job so far.
        wall_time : float
            Seconds since 1970.
        """

    def close(self) -> None:
        """Write out what is pending and free the place. Closing again does nothing."""

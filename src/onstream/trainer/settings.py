"""How a job is run."""

from __future__ import annotations

from dataclasses import dataclass, fields

from onstream.errors import JobError

__all__ = ["Settings"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a job is run.

    Attributes
    ----------
    batch_size : int
        Rows of a batch.
    max_wait_s : float
        On a slow stream, the longest that a row waits for its batch to fill, in seconds.
    read_ahead : int
        Batches that are read, decoded and hashed ahead of the learner.
    checkpoint_every_s : float
        Seconds between checkpoints.
    keep : int
        Checkpoints that are kept, besides tagged ones.
    max_bad_share : float
        Stop when more than this share of the recent rows is bad.
    window : int
        Examples over which windowed metrics are taken.
    report_every_s : float
        Seconds between reports to the terminal, TensorBoard and Prometheus.
    seed : int
        Decides the initial rows and parameters.
    threads : int, optional
        Threads of the tables; by default one per processor, at most 16.
    """

    batch_size: int = 1024
    max_wait_s: float = 1.0
    read_ahead: int = 8
    checkpoint_every_s: float = 10.0
    keep: int = 5
    max_bad_share: float = 0.1
    window: int = 100_000
    report_every_s: float = 2.0
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch_size", "read_ahead", "keep", "window"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise JobError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("max_wait_s", "checkpoint_every_s", "report_every_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise JobError(f"{name} must be a positive number of seconds, got {value!r}")
        share = self.max_bad_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise JobError(f"max_bad_share must be between 0 and 1, got {share!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise JobError(f"seed must be a whole number from 0 to 2^64 - 1, got {self.seed!r}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise JobError(f"threads must be a whole number of at least 1, got {self.threads!r}")

    def only(self) -> Settings:
        """Return the settings alone, without what a subclass adds."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

"""How a job is run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from onstream.checkpoints import is_tag_name
from onstream.errors import JobError

__all__ = ["Settings"]

# By default, and where the model is served while it learns: then an example is to count within half a second.
_PACES = {"max_wait_s": (1.0, 0.05), "checkpoint_every_s": (10.0, 0.25)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a job is run.

    Attributes
    ----------
    batch_size : int
        Rows of a batch.
    max_wait_s : float, optional
        On a slow stream, the longest that a row waits for its batch to fill, in seconds. By default 1, and 0.05
        where the model is served while it learns (`onstream run`).
    read_ahead : int
        Batches that are read, decoded and hashed ahead of the learner.
    checkpoint_every_s : float, optional
        Seconds between checkpoints. By default 10, and 0.25 where the model is served while it learns.
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
    publish : str, optional
        Tag, such as "production", that is moved to each checkpoint that passes `gate`.
    gate : str, optional
        Bounds that the metrics of a checkpoint must keep to be published, such as
        "auc >= 0.7, 0.9 <= calibration <= 1.1"; without, each is published. `Gate` tells more.
    gate_min_examples : int
        With fewer evaluated examples of a label, the gate is closed.
    guard : str, optional
        Bounds that recent rows must keep to be learned from, such as "0.5 <= label_rate <= 2, unseen <= 0.3";
        beyond them learning pauses until `onstream resume`. `Guard` tells more.
    guard_rows : int
        How many of the newest rows the guard takes for recent.
    """

    batch_size: int = 1024
    max_wait_s: float | None = None
    read_ahead: int = 8
    checkpoint_every_s: float | None = None
    keep: int = 5
    max_bad_share: float = 0.1
    window: int = 100_000
    report_every_s: float = 2.0
    seed: int = 0
    threads: int | None = None
    publish: str | None = None
    gate: str | None = None
    gate_min_examples: int = 1_000
    guard: str | None = None
    guard_rows: int = 10_000

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("batch_size", "read_ahead", "keep", "window", "gate_min_examples", "guard_rows"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise JobError(f"{name} must be a whole number of at least 1, got {value!r}")
        for name in ("max_wait_s", "checkpoint_every_s", "report_every_s"):
            value = getattr(self, name)
            if value is None and name in _PACES:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise JobError(f"{name} must be a positive number of seconds, got {value!r}")
        share = self.max_bad_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise JobError(f"max_bad_share must be between 0 and 1, got {share!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise JobError(f"seed must be a whole number from 0 to 2^64 - 1, got {self.seed!r}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise JobError(f"threads must be a whole number of at least 1, got {self.threads!r}")
        for name in ("publish", "gate", "guard"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise JobError(f"{name} must be text, got {value!r}")
        if self.publish is not None and not is_tag_name(self.publish):
            raise JobError(f"publish must be the name of a tag, such as 'production', got {self.publish!r}")
        if self.gate is not None and self.publish is None:
            raise JobError("a gate needs a tag to open for, such as publish='production'")

    def only(self) -> Settings:
        """Return the settings alone, without what a subclass adds."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    def pace(self, name: Literal["max_wait_s", "checkpoint_every_s"], *, served: bool = False) -> float:
        """Return a pace as it was set, or else the default: that of a model that is `served` is faster."""
        own: float | None = getattr(self, name)
        return _PACES[name][served] if own is None else own

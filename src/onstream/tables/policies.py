"""How a row begins, when an id gets one, and when it loses it."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

from onstream.errors import JobError

__all__ = ["Chance", "Constant", "Expire", "Normal", "SeenTimes", "Uniform"]


@dataclass(frozen=True)
class Constant:
    """New rows hold one value."""

    value: float = 0.0

    def __post_init__(self) -> None:
        """Check the number."""
        _check_finite(self)

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "constant", "value": self.value}


@dataclass(frozen=True)
class Uniform:
    """New rows are uniform in ``[low, high)``, drawn from a hash of the key and the seed."""

    low: float = -0.01
    high: float = 0.01

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_finite(self)
        if self.low > self.high:
            raise JobError(f"Uniform: low must not be above high, got {self.low!r} and {self.high!r}")

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "uniform", "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Normal:
    """New rows are normal with `mean` and `std`, drawn from a hash of the key and the seed."""

    mean: float = 0.0
    std: float = 0.01

    def __post_init__(self) -> None:
        """Check the numbers."""
        _check_finite(self)
        if self.std < 0:
            raise JobError(f"Normal: std must not be negative, got {self.std!r}")

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "normal", "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class SeenTimes:
    """Admit an id when it was seen `times` times.

    Exact by default: each waiting id costs about 40 bytes until it is admitted or, with an expiry, forgotten.
    With `sketch_bytes` the sights are counted in a count-min sketch of that size, which never grows and ages by
    halving; it may admit an id early, never late.

    References
    ----------
    Cormode, Muthukrishnan 2005, "An improved data stream summary: the count-min sketch"; McMahan et al. 2013,
    3.1.1, on what admission saves.
    """

    times: int
    sketch_bytes: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if type(self.times) is not int or not 1 <= self.times <= 200:
            raise JobError(f"SeenTimes: times must be a whole number from 1 to 200, got {self.times!r}")
        size = self.sketch_bytes
        if size is not None and (type(size) is not int or not 1 << 12 <= size <= 1 << 34):
            raise JobError(
                f"SeenTimes: sketch_bytes must be between 4 KiB and 16 GiB, got {self.sketch_bytes!r}"
            )

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        if self.sketch_bytes is None:
            return {"kind": "seen", "times": self.times}
        # The sketch has 16 partitions of 4 rows; each row a power of two, to be indexed by a mask.
        cells = 1 << max(0, (self.sketch_bytes // 64).bit_length() - 1)
        return {"kind": "sketch", "times": self.times, "cells": cells}


@dataclass(frozen=True)
class Chance:
    """Admit an id with a probability at each sight, so frequent ids are in soon and rare ones seldom.

    References
    ----------
    McMahan et al. 2013, "Ad click prediction: a view from the trenches", 3.1.1, Poisson inclusion.
    """

    probability: float

    def __post_init__(self) -> None:
        """Check the number."""
        _check_finite(self)
        if not 0 < self.probability <= 1:
            raise JobError(f"Chance: probability must be in (0, 1], got {self.probability!r}")

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "chance", "probability": self.probability}


def _check_finite(policy: Constant | Uniform | Normal | Chance) -> None:
    for name, value in asdict(policy).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise JobError(f"{type(policy).__name__}: {name} must be a finite number, got {value!r}")


_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True)
class Expire:
    """Drop rows whose id was not seen for a time-to-live of event time: seconds, or text such as "30d".

    The units are s, m, h, d, w. A row past its time reads as absent at once; its memory is reclaimed in passing.
    """

    after: int | str

    def __post_init__(self) -> None:
        """Check that the time can be read."""
        _ = self.seconds

    @property
    def seconds(self) -> int:
        """The time-to-live in seconds."""
        match = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", str(self.after))
        seconds = int(match[1]) * _UNITS_S[match[2] or "s"] if match else 0
        if not 1 <= seconds < 1 << 32:
            raise JobError(f"Expire: expected seconds or a time such as '30d' or '12h', got {self.after!r}")
        return seconds

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": "expire", "ttl_s": self.seconds}

"""Durations as people write them."""

from __future__ import annotations

import math
import re

from onstream.errors import JobError

__all__ = ["duration_text", "seconds"]

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def seconds(duration: float | str) -> float:
    """Return a duration in seconds.

    Parameters
    ----------
    duration : float or str
        Seconds, or a number with a unit: ms, s, m, h, d or w.

    Raises
    ------
    JobError
        If it is neither, negative, or not finite.

    Examples
    --------
    >>> seconds("1.5h")
    5400.0
    """
    found = math.nan
    if isinstance(duration, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*", duration)
        if match:
            found = float(match[1]) * _UNITS_S[match[2]]
    elif isinstance(duration, int | float) and not isinstance(duration, bool):
        found = float(duration)
    if not 0 <= found < math.inf:
        raise JobError(f"expected seconds or a time such as '30m', '12h' or '7d', got {duration!r}")
    return found


def duration_text(seconds: float) -> str:
    """Return seconds as people write them, in the largest unit up to days of which there is a whole number.

    Examples
    --------
    >>> duration_text(5400)
    '90m'
    """
    for unit in ("d", "h", "m", "s", "ms"):
        number = seconds / _UNITS_S[unit]
        if number >= 1 and number == round(number):
            return f"{number:.0f}{unit}"
    return f"{seconds:g}s"

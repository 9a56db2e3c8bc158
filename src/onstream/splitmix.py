"""Numbers of 64 bits that look drawn, made of numbers that are counted."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["mixed"]

_MASK = 2**64 - 1

T = TypeVar("T", int, npt.NDArray[np.uint64])


def mixed(numbers: T) -> T:
    """Return 64 bits that depend on all bits of each number, others for each.

    Parameters
    ----------
    numbers : int from 0 to 2**64 - 1, or ndarray of uint64

    Returns
    -------
    int, or ndarray of uint64
        What SplitMix64 draws first from such a seed. The core's `mix` is this without the first addition.

    References
    ----------
    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".

    Examples
    --------
    >>> hex(mixed(0))
    '0xe220a8397b1dcdaf'
    """
    # Python's integers have no end; of an array, the masks change nothing.
    found: Any = (numbers + 0x9E3779B97F4A7C15) & _MASK
    found = ((found ^ (found >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    found = ((found ^ (found >> 27)) * 0x94D049BB133111EB) & _MASK
    drawn: T = found ^ (found >> 31)
    return drawn

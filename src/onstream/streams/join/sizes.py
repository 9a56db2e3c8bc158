"""Sizes as people write them."""

from __future__ import annotations

import re

from onstream.errors import JobError

__all__ = ["size_bytes"]

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
}


def size_bytes(size: int | str) -> int:
    """Return a size in bytes, of a number or a text such as "512MB"; JobError if it is neither, or not above 0.

    Examples
    --------
    >>> size_bytes("1.5GB")
    1500000000
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", str(size), re.IGNORECASE)
    found = int(float(match[1]) * _UNITS.get(match[2].upper(), 0)) if match else 0
    if found < 1 or isinstance(size, bool):
        raise JobError(f"expected a number of bytes or a size such as '512MB', got {size!r}")
    return found

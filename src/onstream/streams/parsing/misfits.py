"""Finding what is wrong in input that does not parse as a whole, and saying so in countable words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

__all__ = ["failing", "misfit"]

T = TypeVar("T")


def failing(items: list[T], works: Callable[[list[T]], bool]) -> list[T]:
    """Return the items that fail, where a list works exactly if each of its items does.

    Notes
    -----
    Halves the list: one call for a list that works, about ``2 k log2(n / k)`` for `k` failures among `n`.
    """
    if not items or works(items):
        return []
    if len(items) == 1:
        return items
    half = len(items) // 2
    return failing(items[:half], works) + failing(items[half:], works)


def misfit(column: str, type: pa.DataType) -> str:
    """Say that a value is not of the type of its column."""
    if pa.types.is_floating(type) or pa.types.is_decimal(type):
        wanted = "a number"
    elif pa.types.is_integer(type):
        wanted = f"a whole number that fits {type}"
    elif pa.types.is_boolean(type):
        wanted = "true or false"
    elif pa.types.is_string(type) or pa.types.is_large_string(type):
        wanted = "text in UTF-8"
    else:
        wanted = f"of type {type}"
    return f"column {column!r}: not {wanted}"

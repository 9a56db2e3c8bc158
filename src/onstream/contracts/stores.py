"""Stores: where checkpoint files lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

__all__ = ["Store"]


class Store(Protocol):
    """Where checkpoint files lie. Names are relative, with "/" between parts, and never leave the store.

    Local disk is one store; an object store can be another, since nothing is appended or renamed by callers.
    """

    def write(self, name: str, parts: Sequence[bytes | memoryview | pa.Buffer]) -> int:
        """Write the parts as one file, durable and visible whole or not at all; return its size in bytes."""

    def open(self, name: str) -> pa.NativeFile:
        """Open a file for reading, memory-mapped where the store can. Raises FileNotFoundError."""

    def names(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted."""

    def remove(self, name: str) -> None:
        """Remove a file; a missing one is no error."""

"""What formats that are settings alone have in common: how they keep them, and how columns are chosen."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Self

import pyarrow as pa

from onstream.streams.chunks import NO_COLUMNS
from onstream.streams.formats.inference import Inference, selected

__all__ = ["Described"]


class Described:
    """A frozen dataclass of settings, with the columns that are wanted and what is known of all of them.

    Attributes
    ----------
    columns : tuple of str, optional
        Those that are decoded; None for all.
    """

    columns: tuple[str, ...] | None
    _inference: Inference

    def select(self, names: Iterable[str]) -> Self:
        """Return the same format, decoding only these of its columns."""
        chosen = copy.copy(self)
        object.__setattr__(chosen, "columns", tuple(dict.fromkeys(names)))
        return chosen

    def schema(self) -> pa.Schema:
        """Return the columns of every batch; empty as long as they are not known."""
        known = self._inference.known()
        return NO_COLUMNS if known is None else selected(known, self.columns)

    def _keep(self, **facts: Any) -> None:
        """Set fields, as `__init__` of a frozen dataclass may."""
        for name, value in facts.items():
            object.__setattr__(self, name, value)

"""Choosing a share of rows by what they are called, so that every replay chooses the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onstream.contracts import Keys
from onstream.core import hash_column, salt
from onstream.errors import ColumnError

__all__ = ["chosen", "impression_keys"]

_IMPRESSION = salt("onstream.impression")


def impression_keys(column: Any, purpose: str = "") -> Keys:
    """Return a 64-bit key for each value of a column, as `Id` features have, of a salt of their own.

    Parameters
    ----------
    column : pyarrow.Array
        Of any type that can be an id.
    purpose : str
        Choices for different purposes are independent of each other.

    Raises
    ------
    ColumnError
        If a value cannot be an id.
    """
    keys = np.empty(len(column), np.uint64)
    bad = hash_column(column, salt(f"onstream.{purpose}") if purpose else _IMPRESSION, keys)
    if bad is not None:
        at = int(np.flatnonzero(bad)[0])
        raise ColumnError(
            f"row {at}: {str(column[at])[:200]!r} cannot name an impression; use whole numbers or texts"
        )
    return keys


def chosen(column: Any, share: float, purpose: str = "measured") -> npt.NDArray[np.bool_]:
    """Return which rows belong to a share of all that there can be; equal values are chosen together.

    Parameters
    ----------
    column : pyarrow.Array
        What the rows are called, such as a request id.
    share : float
        From 0 to 1. What a share chooses, a larger one chooses too.
    purpose : str
        Choices for different purposes are independent of each other.

    Examples
    --------
    >>> import pyarrow as pa
    >>> int(chosen(pa.array(range(10_000)), 0.1).sum())
    1032
    """
    if share >= 1:
        return np.ones(len(column), bool)
    return np.asarray(impression_keys(column, purpose) < np.uint64(share * 2.0**64))

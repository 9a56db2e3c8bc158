"""Columns that know the label: what a row holds only once its outcome is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from onstream.features.columns import read_numbers
from onstream.features.declarations import Declaration, Id, Label, Number

__all__ = ["leaking"]

Places: TypeAlias = npt.NDArray[np.int64]

# Fewer rows with another label than most are too few to judge by.
_FEWEST = 40

# How many of them may be taken for the others: a share, and those between two rows at the bound of a number.
_WRONG = 0.01
_AT_BOUNDS = 4

# Correlation of ranks of a column that is the label in other words.
_COPY = 0.9999

# An `Id` of more values in the sample can know its rows one by one.
_MOST_VALUES = 100


def leaking(declarations: Sequence[Declaration], sample: pa.RecordBatch) -> list[str]:
    """Return the features of which one value alone decides the label of a row, or whether it has one.

    Parameters
    ----------
    declarations : sequence of Declaration
        With one label, as `guess` returns them.
    sample : pyarrow.RecordBatch
        Some rows; a few thousand are enough.

    Notes
    -----
    Each half of the rows tells the other the label of the value that is nearest: at most four rows may be wrong, and
    1 % of those that do not have the most frequent label, of which there must be 40. A feature of a real label leaks
    if it puts the rows in the same order. What decides only together with other columns is not found, nor is anything
    in rows that are sorted by the label.
    """
    label = next(d for d in declarations if isinstance(d, Label))
    truth = _places(sample.column(label.source), label)
    known = np.asarray(sample.column(label.source).is_valid())
    found = []
    for feature in declarations:
        if not isinstance(feature, Id | Number):
            continue
        values = _places(sample.column(feature.source), feature)
        if isinstance(feature, Id) and values.max(initial=0) >= _MOST_VALUES:
            continue
        same = _same_order if label.task == "real" else _decides
        if same(values[known], truth[known]) or _decides(values, known.astype(np.int64)):
            found.append(feature.name)
    return found


def _places(column: pa.Array, declaration: Declaration) -> Places:
    """Return the place of each value among the different ones: in order if they are numbers, as they come if not."""
    if isinstance(declaration, Number) or (isinstance(declaration, Label) and declaration.task == "real"):
        return np.unique(read_numbers(column)[0], return_inverse=True)[1]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return np.asarray(column.dictionary_encode(null_encoding="encode").indices, np.int64)


def _decides(values: Places, truth: Places) -> bool:
    """Return whether rows with near values have the same truth."""
    # Not every other row: rows of one order or household stand beside each other, and know each other's label.
    half = (len(values) + 1) // 2
    first, second = (values[:half], truth[:half]), (values[half:], truth[half:])
    if not len(second[0]):
        return False
    wrong = _num_wrong(*first, *second) + _num_wrong(*second, *first)
    others = len(truth) - np.bincount(truth).max()
    return bool(others >= _FEWEST and wrong <= _AT_BOUNDS + _WRONG * others)


def _num_wrong(known: Places, truth: Places, asked: Places, expected: Places) -> int:
    """Return how many of the asked are not what the nearest of the known are."""
    order = np.argsort(known, kind="stable")
    known = known[order]
    right = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(np.abs(asked - known[left]) < np.abs(known[right] - asked), left, right)
    return int((truth[order][nearest] != expected).sum())


def _same_order(values: Places, truth: Places) -> bool:
    if len(values) < _FEWEST or values.max() == values.min() or truth.max() == truth.min():
        return False
    return bool(abs(np.corrcoef(values, truth)[0, 1]) >= _COPY)

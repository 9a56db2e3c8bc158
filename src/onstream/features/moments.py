"""Mean and variance over a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array

__all__ = ["Moments"]

Floats: TypeAlias = npt.NDArray[np.float64]


class _Sums(NamedTuple):
    """Of each column: how many values, their mean, and the sum of their squared deviations from it."""

    counts: Floats
    means: Floats
    squares: Floats


class Moments:
    """Mean and variance of several columns, batch by batch.

    Parameters
    ----------
    names : sequence of str
        One a column.

    Notes
    -----
    The arrays are replaced together and never written to: whoever holds them has a snapshot, and one thread
    may standardise while another adds.

    References
    ----------
    Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", section 2: the merge of the
    moments of two samples.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        zeros = np.zeros(len(self.names))
        self._sums = _Sums(zeros, zeros, zeros)

    def standardize(self, values: Floats) -> Floats:
        """Return `values`, (rows, columns), less the mean so far and over the deviation so far; NaN stays.

        Before any data of a column it has no scale, and all of it is NaN; one that never varied is divided by 1.
        """
        count, mean, squares = self._sums
        std = np.sqrt(squares / np.maximum(count, 1.0))
        std[std == 0.0] = 1.0
        with np.errstate(over="ignore"):
            shown: Floats = (values - mean) / std
        shown[:, count == 0.0] = np.nan
        return shown

    def add(self, values: Floats) -> None:
        """Take in `values`, (rows, columns); NaN is left out."""
        there = ~np.isnan(values)
        count = there.sum(axis=0).astype(np.float64)
        mean = np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1.0)
        squares = (np.where(there, values - mean, 0.0) ** 2).sum(axis=0)
        before = self._sums
        total = before.counts + count
        share = count / np.maximum(total, 1.0)
        apart = mean - before.means
        self._sums = _Sums(
            total,
            before.means + apart * share,
            before.squares + squares + apart**2 * before.counts * share,
        )

    def arrays(self) -> dict[str, Array]:
        """Return what there is to remember, one entry a column."""
        return self._sums._asdict()

    def load(self, names: Sequence[str], arrays: Mapping[str, Array]) -> None:
        """Go on from `arrays` of the columns `names`; columns that are not among them start fresh."""
        sums = _Sums(*(np.zeros(len(self.names)) for _ in _Sums._fields))
        place = {name: i for i, name in enumerate(names)}
        for at, name in enumerate(self.names):
            if name in place:
                for field, array in sums._asdict().items():
                    array[at] = arrays[field][place[name]]
        self._sums = sums

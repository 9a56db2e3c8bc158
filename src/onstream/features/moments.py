"""Mean and variance over a stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array

__all__ = ["Moments"]

# The farthest from the mean that a standardised value is shown, so that it stays finite in float32.
_FARTHEST = float(np.finfo(np.float32).max)


class Moments:
    """Count, mean and sum of squared deviations of several columns, batch by batch.

    Parameters
    ----------
    names : sequence of str
        One a column.

    Notes
    -----
    Invariant: the arrays are replaced and never written to, so whoever holds them has a snapshot.

    References
    ----------
    Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance", section 2: the merge of the
    moments of two samples.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.count = np.zeros(len(self.names))
        self.mean = np.zeros(len(self.names))
        self.squares = np.zeros(len(self.names))

    def standardize(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return `values`, (rows, columns), less the mean so far and over the deviation so far; NaN stays.

        Before any data the mean is 0 and the deviation 1; a column that never varied is divided by 1.
        """
        std = np.sqrt(self.squares / np.maximum(self.count, 1.0))
        std[std == 0.0] = 1.0
        with np.errstate(over="ignore"):
            return np.clip((values - self.mean) / std, -_FARTHEST, _FARTHEST)

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Take in `values`, (rows, columns); NaN is left out."""
        there = ~np.isnan(values)
        count = there.sum(axis=0).astype(np.float64)
        mean = np.where(there, values, 0.0).sum(axis=0) / np.maximum(count, 1.0)
        squares = (np.where(there, values - mean, 0.0) ** 2).sum(axis=0)
        total = self.count + count
        share = count / np.maximum(total, 1.0)
        apart = mean - self.mean
        self.squares = self.squares + squares + apart**2 * self.count * share
        self.mean = self.mean + apart * share
        self.count = total

    def arrays(self) -> dict[str, Array]:
        """Return what there is to remember, one entry a column."""
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load(self, names: Sequence[str], arrays: dict[str, Array]) -> None:
        """Go on from `arrays` of the columns `names`; columns that are not among them start fresh."""
        fresh = Moments(self.names)
        place = {name: i for i, name in enumerate(names)}
        for at, name in enumerate(self.names):
            if name in place:
                fresh.count[at] = arrays["count"][place[name]]
                fresh.mean[at] = arrays["mean"][place[name]]
                fresh.squares[at] = arrays["squares"][place[name]]
        self.count, self.mean, self.squares = fresh.count, fresh.mean, fresh.squares

"""Examples as estimators get them, and what every model behind an estimator does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Examples", "Floats", "Matrix", "Model"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Examples as rows of numbers, with a name for each column; NaN is a value that is not there.

    Attributes
    ----------
    names : tuple of str
    values : ndarray, shape (rows, names)
    """

    names: tuple[str, ...]
    values: npt.NDArray[Any]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.values)

    def part(self, rows: Any) -> Matrix:
        """Return some rows."""
        return Matrix(self.names, self.values[rows])


Examples: TypeAlias = Sequence[Mapping[Any, Any]] | Matrix
"""One mapping of feature to value a row, or a `Matrix`."""


class Model(Protocol):
    """What learns behind an estimator. It can be pickled, and copied by `copy.deepcopy`."""

    def grow(self, num_classes: int) -> None:
        """Make room for so many classes; never fewer than before."""

    def predict(self, examples: Examples) -> Floats:
        """Return class probabilities, (rows, classes), or values, (rows,). Nothing is changed."""

    def learn(self, examples: Examples, targets: Floats, weights: Floats | None) -> None:
        """Take one step on these rows; targets are numbers of classes, or values."""

"""What the wires see of a served model."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal, Protocol

import pyarrow as pa

from onstream.contracts import Label, Predictions

__all__ = ["Answer", "Input", "Model", "Signature"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions for the rows of one request, and no others.

    Attributes
    ----------
    predictions : Predictions
    version : int
        The model version that made all of them.
    """

    predictions: Predictions
    version: int


@dataclass(frozen=True, slots=True)
class Input:
    """One column that a model reads.

    Attributes
    ----------
    name : str
        Of the column.
    kinds : tuple of {"id", "list", "number", "tensor"}
        What the features that read it take it for; several features may read one column.
    shape : tuple of int
        Of one row: () for one id or number, (-1,) for a list, the tensor's shape otherwise.
    """

    name: str
    kinds: tuple[Literal["id", "list", "number", "tensor"], ...]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives."""

    inputs: tuple[Input, ...]
    outputs: tuple[Label, ...]


class Model(Protocol):
    """A served model. All methods may be called from any thread."""

    @property
    def name(self) -> str:
        """The name that requests say."""

    def signature(self) -> Signature:
        """Return what it takes and gives; raise UnavailableError while no version is loaded."""

    def versions(self) -> tuple[int, ...]:
        """Return the versions that may answer now, the usual one first; none while none is loaded."""

    def not_ready(self) -> str | None:
        """Return why it should get no requests, or None if it is ready."""

    def predict(
        self, rows: pa.RecordBatch, *, version: int | None = None, timeout_s: float | None = None
    ) -> Future[Answer]:
        """Begin to predict rows with the columns of `signature`, others ignored.

        The future, or this call at once, raises RequestError (bad rows, the message names column and row),
        NotFoundError (`version` is not loaded), UnavailableError (full queue, draining, nothing loaded) or
        DeadlineError (`timeout_s` passed). A cancelled future is not computed, if it has not begun.
        """

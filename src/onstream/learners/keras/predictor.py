"""What predicts from a program that a checkpoint keeps: the part that all forms of programs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onstream.contracts import Array, Batch, Layout, Predictions, Rows, State
from onstream.errors import CheckpointError, OnstreamError
from onstream.learners.exported import facts_of
from onstream.learners.inputs import gather_parts, parts_of

__all__ = ["FORMAT", "ProgramPredictor"]

FORMAT = "onstream.program/1"

_DTYPES = ("float32", "float64", "float16", "int32", "int64", "uint32", "uint8", "int8", "bool")


class ProgramPredictor:
    """A program as a checkpoint keeps it: a function from weights and the parts of a batch to predictions.

    Parameters
    ----------
    state : State
        What the learner's `export` returned.
    layout : Layout
        Of the batches to predict.

    Raises
    ------
    CheckpointError
        If the state is no such program, is not for batches of `layout`, or holds anything but pure operators.

    Notes
    -----
    `predict` may be called from any number of threads at once; `load` must stand alone.
    """

    def __init__(self, state: State, layout: Layout) -> None:
        self._layout = layout
        self._part_names = [part.name for part in parts_of(layout)]
        facts = state.facts
        data = state.arrays.get("program")
        if facts.get("format") != FORMAT or data is None or data.dtype != np.uint8 or data.ndim != 1:
            raise CheckpointError(
                f"the exported program has the format {facts.get('format')!r}, expected {FORMAT!r}; use the "
                f"onstream that wrote it"
            )
        for name, expected in facts_of(parts_of(layout), layout.labels).items():
            if facts.get(name) != expected:
                raise CheckpointError(
                    f"the exported program was made for the {name} {facts.get(name)}, the features give "
                    f"{expected}; the checkpoint was changed"
                )
        self._shapes = _shapes(facts.get("parameters"))
        self._pads = facts.get("pads") is True
        self._weights: list[Any] = []
        try:
            self._open(data.tobytes(), list(self._shapes.values()))
        except OnstreamError:
            raise
        except Exception as error:
            # Whatever a changed program makes its reader stumble over is said to be the program's fault.
            raise CheckpointError(f"the exported program cannot be read: {_told(error)}") from error

    def load(self, state: State) -> None:
        """Take the weights of a version, and try them on one row.

        Raises
        ------
        CheckpointError
            If one is missing or has another shape, or if the program then fails.
        """
        found = []
        for name, (shape, dtype) in self._shapes.items():
            array = state.arrays.get(name)
            if array is None or array.shape != shape or str(array.dtype) != dtype:
                got = "none" if array is None else f"{array.dtype} {array.shape}"
                raise CheckpointError(
                    f"the exported program needs the weights {name!r}, {dtype} {shape}, got {got}; program and "
                    f"weights are of different versions"
                )
            found.append(array)
        self._weights = self._kept(found)
        one = {
            part.name: np.zeros((1, *part.shape), str(part.dtype).removeprefix("torch."))
            for part in parts_of(self._layout)
        }
        self.predict_arrays(one)

    def predict(self, batch: Batch, rows: Mapping[str, Rows]) -> Predictions:
        """Return the predictions for a batch; `rows` are those that the tables gave for its keys.

        Raises
        ------
        CheckpointError
            If the program fails, as one that was changed might.
        """
        leaves = {name: torch.from_numpy(array) for name, array in rows.items()}
        parts = gather_parts(self._layout, batch, leaves)
        return self.predict_arrays({name: part.numpy() for name, part in parts.items()})

    def predict_arrays(self, parts: Mapping[str, Array]) -> Predictions:
        """Return the predictions for the parts of a batch, as `gather_parts` gives them."""
        labels = self._layout.labels
        rows = len(parts["numbers"])
        shapes = [(rows, label.classes) if label.task == "class" else (rows,) for label in labels]
        if rows == 0:
            return {
                label.name: np.empty(shape, np.float32) for label, shape in zip(labels, shapes, strict=True)
            }
        try:
            found = self._run([parts[name] for name in self._part_names], rows)
        except Exception as error:
            raise CheckpointError(f"the exported program failed: {_told(error)}") from error
        for label, shape, values in zip(labels, shapes, found, strict=True):
            if values.shape != shape or values.dtype != np.float32:
                raise CheckpointError(
                    f"the exported program gives {values.dtype} {values.shape} for label {label.name!r}, "
                    f"expected float32 {shape}; the checkpoint was changed"
                )
        return {label.name: values for label, values in zip(labels, found, strict=True)}

    # ------------------------------------------------------------------------- of each form of programs

    def _open(self, data: bytes, weights: Sequence[tuple[tuple[int, ...], str]]) -> None:
        """Read a program and check it; `weights` are the shapes and types of its first arguments."""
        raise NotImplementedError

    def _kept(self, weights: list[Array]) -> list[Any]:
        """Return weights as the program takes them."""
        raise NotImplementedError

    def _run(self, parts: list[Array], rows: int) -> list[Array]:
        """Run the program."""
        raise NotImplementedError


def _shapes(described: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    found = {}
    if isinstance(described, dict):
        for name, entry in described.items():
            match entry:
                case [list(shape), str(dtype)] if dtype in _DTYPES and all(
                    type(n) is int and n >= 0 for n in shape
                ):
                    found[str(name)] = tuple(shape), dtype
        if len(found) == len(described):
            return found
    raise CheckpointError("the exported program does not tell its weights; the checkpoint was changed")


def _told(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"

"""A network from a checkpoint, without the code that defined it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onstream.contracts import Array, Batch, Label, Layout, Predictions, Rows, State
from onstream.errors import CheckpointError
from onstream.learners.archive import Input, open_archive
from onstream.learners.inputs import Part, gather_parts, parts_of

__all__ = ["FORMAT", "ExportedNetwork", "facts_of"]

FORMAT = "onstream.network/1"

# What autocast computes in its type whatever comes in, so that weights can be cast once, when they are loaded.
_CAST = {
    "linear.default": ("weight", "bias"),
    "conv1d.default": ("weight", "bias"),
    "conv2d.default": ("weight", "bias"),
    "conv3d.default": ("weight", "bias"),
    "matmul.default": ("self", "other"),
    "mm.default": ("self", "mat2"),
    "bmm.default": ("self", "mat2"),
    "addmm.default": ("self", "mat1", "mat2"),
}


class ExportedNetwork:
    """A network as a checkpoint keeps it: it predicts what the learner would.

    Parameters
    ----------
    state : State
        What the learner's `export` returned.
    layout : Layout
        Of the batches to predict.

    Attributes
    ----------
    parameters : tuple of str
        Names of the arrays that `load` needs.

    Raises
    ------
    CheckpointError
        If the state is no exported network, is not for batches of `layout`, or holds anything but tensor
        operators.

    Notes
    -----
    The predictions have the learner's bits, but for layers of which PyTorch has fused forms that tracing does
    not see, such as `TransformerEncoderLayer`; these round in another order. Nothing of the archive is run but
    operators of PyTorch's tensor library, and nothing is unpickled. `predict` may be called from any number of
    threads at once; `load` must stand alone.
    """

    def __init__(self, state: State, layout: Layout) -> None:
        self._layout = layout
        self._parts = parts_of(layout)
        facts = state.facts if isinstance(state.facts, dict) else {}
        archive = state.arrays.get("archive")
        if facts.get("format") != FORMAT or archive is None or archive.dtype != np.uint8:
            raise CheckpointError(
                f"the exported network has the format {facts.get('format')!r}, expected {FORMAT!r}; use the "
                f"onstream that wrote it"
            )
        for name, expected in facts_of(self._parts, layout.labels).items():
            if facts.get(name) != expected:
                raise CheckpointError(
                    f"the exported network was made for the {name} {facts.get(name)}, the features give "
                    f"{expected}; the checkpoint was changed"
                )
        opened = open_archive(archive.data)
        self._graph = opened.graph
        # Within the archive the network is a part of what predicts.
        self._inputs = tuple(replace(x, name=x.name.removeprefix("network.")) for x in opened.inputs)
        self._constants = {name.removeprefix("network."): x for name, x in opened.constants.items()}
        self._shapes = _shapes(facts.get("parameters"))
        self.parameters = tuple(entry.name for entry in self._inputs if entry.kind == "weight")
        users = [entry for entry in self._inputs if entry.kind == "user"]
        fits = (
            len(users) == len(self._parts)
            and self._inputs[len(self._inputs) - len(users) :] == tuple(users)
            and len(self._inputs) == self._graph.num_inputs
            and len(self._graph.results) == len(layout.labels)
            and set(self.parameters) <= set(self._shapes)
        )
        if not fits:
            raise CheckpointError(
                "the exported network does not fit its description; the checkpoint was changed"
            )
        self._kept: list[Tensor] = []

    def load(self, state: State) -> None:
        """Take the values of parameters and buffers, and try them on one row.

        Parameters
        ----------
        state : State
            Arrays by name; more than `parameters` names may be there. They are not copied.

        Raises
        ------
        CheckpointError
            If one is missing or has another shape, or if the network then fails.
        """
        kept = []
        for at, entry in enumerate(self._inputs[: len(self._inputs) - len(self._parts)]):
            kept.append(self._cast(at, self._value(entry, state.arrays)))
        self._kept = kept
        self._run([torch.zeros((1, *part.shape), dtype=part.dtype) for part in self._parts], 1)

    def predict(self, batch: Batch, rows: Mapping[str, Rows]) -> Predictions:
        """Return the predictions for a batch; `rows` are those that the tables gave for its keys.

        Raises
        ------
        CheckpointError
            If the network fails, as one that was changed might.
        """
        leaves = {name: torch.from_numpy(array) for name, array in rows.items()}
        return self.predict_parts(gather_parts(self._layout, batch, leaves))

    def predict_parts(self, parts: Mapping[str, Tensor]) -> Predictions:
        """Return the predictions for the parts of a batch, as `gather_parts` gives them."""
        labels = self._layout.labels
        num_rows = len(parts["numbers"])
        if num_rows == 0:
            return {label.name: np.empty((0, *_shape(label)), np.float32) for label in labels}
        found = self._run([parts[part.name] for part in self._parts], num_rows)
        # Copies: a network may return what it was given, and the tables use that memory again.
        return {label.name: np.array(values) for label, values in zip(labels, found, strict=True)}

    def _run(self, parts: list[Tensor], num_rows: int) -> list[Array]:
        # PyTorch tells a thread its number of threads when that is first asked for; until then, products of matrices
        # take one a processor.
        torch.get_num_threads()
        try:
            with torch.inference_mode():
                found = self._graph.run([*self._kept, *parts])
        except Exception as error:
            raise CheckpointError(
                f"the exported network failed: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        for label, values in zip(self._layout.labels, found, strict=True):
            expected = (num_rows, *_shape(label))
            if not isinstance(values, Tensor) or values.dtype != torch.float32 or values.shape != expected:
                raise CheckpointError(
                    f"the exported network gives {_told(values)} for label {label.name!r}, expected float32 "
                    f"{expected}; the checkpoint was changed"
                )
        return [values.numpy() for values in found]

    def _value(self, entry: Input, weights: Mapping[str, Array]) -> Tensor:
        if entry.kind == "constant":
            return self._constants[entry.name]
        array = weights.get(entry.name)
        if array is None or array.shape != self._shapes[entry.name]:
            got = "none" if array is None else str(array.shape)
            raise CheckpointError(
                f"the exported network needs the parameter {entry.name!r} of shape "
                f"{self._shapes[entry.name]}, got {got}; network and parameters are of different versions"
            )
        return torch.from_numpy(array)

    def _cast(self, at: int, value: Tensor) -> Tensor:
        """Return a weight in the type in which every step would take it."""
        if value.dtype != torch.float32:
            return value
        dtypes = {
            use.autocast
            if use.argument in _CAST.get(use.target.removeprefix("torch.ops.aten."), ())
            else None
            for use in self._graph.uses(at)
        }
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        return value if dtype is None else value.to(dtype)


def facts_of(parts: tuple[Part, ...], labels: tuple[Label, ...]) -> dict[str, Any]:
    """Return the facts about inputs and outputs that an exported network carries."""
    return {
        "inputs": [
            {"name": part.name, "shape": list(part.shape), "dtype": str(part.dtype).removeprefix("torch.")}
            for part in parts
        ],
        "outputs": [{"name": x.name, "task": x.task, "classes": x.classes} for x in labels],
    }


def _shapes(described: Any) -> dict[str, tuple[int, ...]]:
    match described:
        case dict() if all(isinstance(shape, list) for shape in described.values()):
            return {str(name): tuple(shape) for name, shape in described.items()}
    raise CheckpointError("the exported network does not tell its parameters; the checkpoint was changed")


def _shape(label: Label) -> tuple[int, ...]:
    return (label.classes,) if label.task == "class" else ()


def _told(values: Any) -> str:
    return f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__

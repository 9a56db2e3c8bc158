"""Getting a Keras model out of the trainer: as a graph of its backend, which needs none of the user's code."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import keras
import numpy as np
import torch
from torch import nn

from onstream.contracts import State
from onstream.errors import JobError
from onstream.learners.export import export_network
from onstream.learners.exported import facts_of
from onstream.learners.inputs import Inputs, parts_of
from onstream.learners.keras.predictor import FORMAT, ProgramPredictor
from onstream.learners.keras.program import Program
from onstream.learners.predictors import WEIGHTS, open_predictor

__all__ = ["export_model"]

_CHECKED_ROWS = (1, 2, 7)
_TOLERANCE = 1e-5


def export_model(program: Program, weights: Mapping[str, Any], *, pads: bool) -> State:
    """Return a model as a state that a predictor of its kind predicts from; the model is left as it is.

    Parameters
    ----------
    program : Program
        With a model that is built.
    weights : mapping of str to keras.Variable
        Those that change from version to version, by their names in the learner's state.
    pads : bool
        Whether rows may be added that do not count, so that fewer shapes are compiled.

    Raises
    ------
    JobError
        If the model does what cannot be exported, or if the exported one predicts otherwise.
    """
    named = {name.removeprefix(WEIGHTS): variable for name, variable in weights.items()}
    backend = keras.backend.backend()
    try:
        if backend == "torch":
            state = export_network(_Network(program, named), program.layout, "fp32")
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                state = _export(program, named, backend, pads)
                _check(program, named, state)
    except JobError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise JobError(
            f"the model cannot be exported, so it can be trained but not served: {type(error).__name__}: "
            f"{told[:500]}"
        ) from error
    return state


class _Network(nn.Module):
    """A Keras model on PyTorch as a module of named tensors, its weights under the names of the state."""

    def __init__(self, program: Program, weights: Mapping[str, Any]) -> None:
        super().__init__()
        # In a list: the model is no part of this module, or its weights would be there twice.
        self._program = [program]
        self._named = dict(weights)
        for name, variable in weights.items():
            self.register_buffer(name, variable.value.detach())

    def __deepcopy__(self, memo: dict[int, Any]) -> _Network:
        # Models of Keras copy themselves by their configuration, which not each of them has.
        other = copy.copy(self)
        other._buffers = {
            name: tensor.clone() for name, tensor in self._buffers.items() if tensor is not None
        }
        return other

    def forward(self, x: Inputs) -> dict[str, torch.Tensor]:
        mapping = [(variable, getattr(self, name)) for name, variable in self._named.items()]
        with keras.StatelessScope(state_mapping=mapping):
            outputs: dict[str, torch.Tensor] = self._program[0].called(x, training=False)
        return outputs


def _export(program: Program, weights: Mapping[str, Any], backend: str, pads: bool) -> State:
    variables = list(weights.values())
    names = [part.name for part in parts_of(program.layout)]

    def predict(values: list[Any], parts: list[Any]) -> list[Any]:
        with keras.StatelessScope(state_mapping=[*zip(variables, values, strict=True)]):
            outputs = program.outputs(dict(zip(names, parts, strict=True)), training=False)
            return program.predictions(outputs)

    parts = parts_of(program.layout)
    shapes = {name: (tuple(v.shape), str(np.dtype(v.dtype))) for name, v in weights.items()}
    if backend == "jax":
        from onstream.learners.keras.stablehlo import export_stablehlo as export

        kind = "stablehlo"
    else:
        from onstream.learners.keras.graphdef import export_graphdef as export

        kind = "graphdef"
    data = export(predict, list(shapes.values()), parts)
    facts = {
        "kind": kind,
        "format": FORMAT,
        **facts_of(parts, program.layout.labels),
        "parameters": {name: [list(shape), dtype] for name, (shape, dtype) in shapes.items()},
        "pads": pads,
        "onstream": version("onstream"),
        "keras": keras.__version__,
    }
    return State({"program": np.frombuffer(data, np.uint8).copy()}, facts)


def _check(program: Program, weights: Mapping[str, Any], state: State) -> None:
    """Raise unless what was exported predicts as the model does."""
    opened = open_predictor(state, program.layout)
    assert isinstance(opened, ProgramPredictor)
    opened.load(State({n: np.array(keras.ops.convert_to_numpy(v)) for n, v in weights.items()}))
    for num_rows in _CHECKED_ROWS:
        rng = np.random.default_rng(num_rows)
        parts = {}
        for part in parts_of(program.layout):
            values = rng.standard_normal((num_rows, *part.shape)).astype(np.float32)
            parts[part.name] = values > 0 if part.dtype == torch.bool else values
        with keras.StatelessScope():
            expected = program.predictions(program.try_out(parts))
        for label, found, values in zip(
            program.layout.labels, opened.predict_arrays(parts).values(), expected, strict=True
        ):
            if not np.allclose(found, keras.ops.convert_to_numpy(values), rtol=_TOLERANCE, atol=_TOLERANCE):
                raise JobError(
                    f"the model cannot be served: what was exported predicts {label.name!r} otherwise for "
                    f"{num_rows} rows; is it drawn at random?"
                )

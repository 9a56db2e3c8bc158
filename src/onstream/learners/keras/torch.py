"""Steps of Keras models on PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from onstream.contracts import Array, Rows
from onstream.learners.keras.program import Program
from onstream.learners.keras.steps import Stepped, scaled

__all__ = ["TorchStep"]


class TorchStep:
    """Predict and learn with PyTorch; `make_step` says what the parameters are."""

    def __init__(self, program: Program, optimizer: Any, *, modal: bool, clip_norm: float | None) -> None:
        self._program = program
        self._optimizer = optimizer
        self._modal = modal
        self._clip_norm = clip_norm
        self._variables = list(program.model.trainable_variables)

    def read(self) -> None:
        """Go on from the variables, which are where the step is."""

    def write(self) -> None:
        """Bring the variables to where the step is, which they are."""

    def predict(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> list[Rows]:
        """Return the predictions, in the order of the labels; change nothing."""
        with torch.no_grad():
            return self._predicted(
                {name: torch.from_numpy(part) for name, part in {**leaves, **data}.items()}
            )

    def learn(
        self,
        leaves: Mapping[str, Array],
        data: Mapping[str, Array],
        targets: Sequence[Rows],
        counted: Sequence[Rows],
    ) -> Stepped:
        """Predict, then update the model unless something is not finite."""
        given = {name: torch.from_numpy(part).requires_grad_() for name, part in leaves.items()}
        parts = {**given, **{name: torch.from_numpy(part) for name, part in data.items()}}
        rows = len(data["numbers"])
        if self._modal:
            with torch.no_grad():
                predictions = self._predicted(parts)
        fixed = [v.value for v in self._program.model.non_trainable_variables]
        before = [tensor.clone() for tensor in fixed]
        outputs = self._program.outputs(parts, training=True)
        if not self._modal:
            with torch.no_grad():
                predictions = [_array(values) for values in self._program.predictions(outputs)]
        loss = self._program.loss(
            outputs, [*map(torch.from_numpy, targets)], [*map(torch.from_numpy, counted)], float(rows)
        )
        values = [v.value for v in self._variables]
        # Not every parameter need be used, nor every part of the batch.
        grads = [*torch.autograd.grad(loss, [*values, *given.values()], allow_unused=True)]
        found = [
            torch.zeros_like(value) if grad is None else grad
            for value, grad in zip([*values, *given.values()], grads, strict=True)
        ]
        # One not finite number makes the sum so; in double precision, since float32 could overflow.
        finite = all(math.isfinite(float(t.detach().sum(dtype=torch.float64))) for t in (loss, *found))
        with torch.no_grad():
            if not finite:
                for tensor, old in zip(fixed, before, strict=True):
                    tensor.copy_(old)
            elif self._optimizer:
                means = scaled(found[: len(values)], float(rows), self._clip_norm)
                self._optimizer.apply(means, self._variables)
        return Stepped(predictions, float(loss.detach()), [_array(g) for g in found[len(values) :]], finite)

    def _predicted(self, parts: Mapping[str, Any]) -> list[Rows]:
        outputs = self._program.outputs(parts, training=False)
        return [_array(values) for values in self._program.predictions(outputs)]


def _array(tensor: torch.Tensor) -> Rows:
    return np.array(tensor.detach().numpy())

"""One step of learning with a Keras model, on the backend that Keras runs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from onstream.contracts import Array, Rows
from onstream.errors import JobError
from onstream.learners.keras.program import Program

__all__ = ["Step", "Stepped", "make_step", "scaled"]


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one step gave.

    Attributes
    ----------
    predictions : list of ndarray of float32
        In the order of the labels, made before the update.
    loss : float
        Summed over rows.
    grads : list of ndarray of float32
        Of the loss by each of the leaves.
    finite : bool
        Whether loss and all gradients are; else nothing was updated.
    """

    predictions: list[Rows]
    loss: float
    grads: list[Rows]
    finite: bool


class Step(Protocol):
    """Predicting with a model, and learning.

    `leaves` are the parts of a batch that gradients are wanted of, `data` are the others.
    """

    def predict(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> list[Rows]:
        """Return the predictions, in the order of the labels; change nothing."""

    def learn(
        self,
        leaves: Mapping[str, Array],
        data: Mapping[str, Array],
        targets: Sequence[Rows],
        counted: Sequence[Rows],
    ) -> Stepped:
        """Predict, then update the model unless something is not finite."""

    def write(self) -> None:
        """Bring the model's and the optimizer's variables to where the step is."""

    def read(self) -> None:
        """Go on from the model's and the optimizer's variables."""


def make_step(program: Program, optimizer: Any, *, modal: bool, clip_norm: float | None, pads: bool) -> Step:
    """Return the step of the backend that Keras runs on.

    Parameters
    ----------
    program : Program
    optimizer : keras.optimizers.Optimizer or None
        Built for the model's trainable variables; None if there are none.
    modal : bool
        Whether the model acts otherwise in training, so that predictions need a pass of their own.
    clip_norm : float, optional
    pads : bool
        Whether rows may be added that do not count, so that fewer shapes are compiled.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        from onstream.learners.keras.jax import JaxStep

        return JaxStep(program, optimizer, modal=modal, clip_norm=clip_norm, pads=pads)
    if backend == "tensorflow":
        from onstream.learners.keras.tensorflow import TensorFlowStep

        return TensorFlowStep(program, optimizer, modal=modal, clip_norm=clip_norm)
    if backend == "torch":
        from onstream.learners.keras.torch import TorchStep

        return TorchStep(program, optimizer, modal=modal, clip_norm=clip_norm)
    raise JobError(f"Keras runs on {backend!r}; set KERAS_BACKEND to 'torch', 'jax' or 'tensorflow'")


def scaled(grads: Sequence[Any], rows: Any, clip_norm: float | None) -> list[Any]:
    """Return gradients of the mean loss from those of the summed one, of at most a norm all together."""
    means = [grad / rows for grad in grads]
    if clip_norm is None or not means:
        return means
    norm = keras.ops.sqrt(sum(keras.ops.sum(keras.ops.square(grad)) for grad in means))
    factor = keras.ops.minimum(1.0, clip_norm / (norm + 1e-6))
    return [grad * factor for grad in means]

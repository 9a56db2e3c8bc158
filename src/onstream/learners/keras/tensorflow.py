"""Steps of Keras models on TensorFlow: one graph for any number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from onstream.contracts import Array, Rows
from onstream.learners.inputs import parts_of
from onstream.learners.keras.program import Program
from onstream.learners.keras.steps import Stepped, scaled

__all__ = ["TensorFlowStep", "specs_of"]


def specs_of(program: Program) -> dict[str, tf.TensorSpec]:
    """Return what the parts of a batch are: any number of rows, so that nothing is traced twice."""
    return {
        part.name: tf.TensorSpec((None, *part.shape), str(part.dtype).removeprefix("torch."))
        for part in parts_of(program.layout)
    }


class TensorFlowStep:
    """Predict and learn with TensorFlow; `make_step` says what the parameters are."""

    def __init__(self, program: Program, optimizer: Any, *, modal: bool, clip_norm: float | None) -> None:
        self._program = program
        self._optimizer = optimizer
        self._modal = modal
        self._clip_norm = clip_norm
        specs = specs_of(program)
        self._names = list(specs)
        self._leaf_names = [name for name in specs if name.startswith(("ids/", "list/"))]
        row = [tf.TensorSpec((None,), tf.float32)] * len(program.layout.labels)
        parts = list(specs.values())
        self._predict = tf.function(self._predicted, input_signature=[parts], autograph=False)
        self._learn = tf.function(
            self._learned, input_signature=[parts, row, row, tf.TensorSpec((), tf.float32)], autograph=False
        )

    def read(self) -> None:
        """Go on from the variables, which are where the step is."""

    def write(self) -> None:
        """Bring the variables to where the step is, which they are."""

    def predict(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> list[Rows]:
        """Return the predictions, in the order of the labels; change nothing."""
        return [np.array(values) for values in self._predict(self._ordered(leaves, data))]

    def learn(
        self,
        leaves: Mapping[str, Array],
        data: Mapping[str, Array],
        targets: Sequence[Rows],
        counted: Sequence[Rows],
    ) -> Stepped:
        """Predict, then update the model unless something is not finite."""
        rows = np.float32(len(data["numbers"]))
        predictions, loss, grads, finite = self._learn(
            self._ordered(leaves, data), [*targets], [*counted], rows
        )
        return Stepped(
            [np.array(values) for values in predictions],
            float(loss),
            [np.array(grads[self._leaf_names.index(name)]) for name in leaves],
            bool(finite),
        )

    def _ordered(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> list[tf.Tensor]:
        parts = {**leaves, **data}
        return [tf.constant(parts[name]) for name in self._names]

    # ------------------------------------------------------------------------------ what is traced

    def _predicted(self, parts: list[Any]) -> list[Any]:
        outputs = self._program.outputs(dict(zip(self._names, parts, strict=True)), training=False)
        return self._program.predictions(outputs)

    def _learned(self, parts: list[Any], targets: list[Any], counted: list[Any], rows: Any) -> Any:
        by_name = dict(zip(self._names, parts, strict=True))
        leaves = [by_name[name] for name in self._leaf_names]
        trained = [v.value for v in self._program.model.trainable_variables]
        fixed = [v.value for v in self._program.model.non_trainable_variables]
        before = [tf.identity(variable) for variable in fixed]
        if self._modal:
            predictions = self._predicted(parts)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*trained, *leaves])
            outputs = self._program.outputs(by_name, training=True)
            total = self._program.loss(outputs, targets, counted, rows)
        found = tape.gradient(total, [*trained, *leaves], unconnected_gradients=tf.UnconnectedGradients.ZERO)
        grads = [tf.convert_to_tensor(grad) for grad in found]
        if not self._modal:
            predictions = self._program.predictions(outputs)
        finite = tf.math.is_finite(total)
        for grad in grads:
            finite &= tf.reduce_all(tf.math.is_finite(grad))
        for variable, old in zip(fixed, before, strict=True):
            variable.assign(tf.where(finite, variable, old))
        if self._optimizer:
            means = scaled(grads[: len(trained)], rows, self._clip_norm)
            tf.cond(finite, lambda: self._apply(means), lambda: tf.constant(0))
        return predictions, total, grads[len(trained) :], finite

    def _apply(self, grads: list[Any]) -> Any:
        self._optimizer.apply(grads, self._program.model.trainable_variables)
        return tf.constant(0)

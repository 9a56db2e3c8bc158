"""Steps of Keras models on JAX: one compiled function for each number of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from onstream.contracts import Array, Rows
from onstream.learners.keras.program import Program
from onstream.learners.keras.steps import Stepped, scaled

__all__ = ["JaxStep", "padded_rows"]

_LEAST_ROWS = 8


def padded_rows(rows: int) -> int:
    """Return the number of rows that a batch is padded to: a power of two, so that few shapes are compiled."""
    return max(_LEAST_ROWS, 1 << (rows - 1).bit_length())


class JaxStep:
    """Predict and learn with JAX; `make_step` says what the parameters are."""

    def __init__(
        self, program: Program, optimizer: Any, *, modal: bool, clip_norm: float | None, pads: bool
    ) -> None:
        self._program = program
        self._optimizer = optimizer
        self._modal = modal
        self._clip_norm = clip_norm
        self._pads = pads
        self._trained = list(program.model.trainable_variables)
        self._fixed = list(program.model.non_trainable_variables)
        self._remembered = list(optimizer.variables) if optimizer else []
        self._predict = jax.jit(self._predicted)
        self._learn = jax.jit(self._learned)
        self.read()

    def read(self) -> None:
        """Go on from the variables."""
        self._values = tuple(
            [v.value for v in variables] for variables in (self._trained, self._fixed, self._remembered)
        )

    def write(self) -> None:
        """Bring the variables to where the step is."""
        for variables, values in zip(
            (self._trained, self._fixed, self._remembered), self._values, strict=True
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def predict(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> list[Rows]:
        """Return the predictions, in the order of the labels; change nothing."""
        rows = len(data["numbers"])
        found = self._predict(*self._values[:2], self._padded({**leaves, **data}, rows))
        return [np.array(values[:rows]) for values in found]

    def learn(
        self,
        leaves: Mapping[str, Array],
        data: Mapping[str, Array],
        targets: Sequence[Rows],
        counted: Sequence[Rows],
    ) -> Stepped:
        """Predict, then update the model unless something is not finite."""
        rows = len(data["numbers"])
        some = self._padded({**dict(enumerate(targets)), **dict(enumerate(counted, len(targets)))}, rows)
        counts = [some[at] for at in range(len(targets), len(some))]
        for values in counts:
            values[rows:] = 0
        values, predictions, loss, grads, finite = self._learn(
            *self._values,
            self._padded(leaves, rows),
            self._padded(data, rows),
            [some[at] for at in range(len(targets))],
            counts,
            np.float32(rows),
        )
        self._values = values
        return Stepped(
            [np.array(values[:rows]) for values in predictions],
            float(loss),
            [np.array(grads[name][:rows]) for name in leaves],
            bool(finite),
        )

    def _padded(self, parts: Mapping[Any, Array], rows: int) -> dict[Any, Array]:
        # Copies of the last row: what is computed of them is finite where it is for the others.
        more = padded_rows(rows) - rows if self._pads else 0
        return {
            name: np.concatenate([part, np.repeat(part[-1:], more, axis=0)]) if more else part
            for name, part in parts.items()
        }

    # --------------------------------------------------------------------------- what is compiled

    def _scope(self, trained: Any, fixed: Any) -> Any:
        mapping = [*zip(self._trained, trained, strict=True), *zip(self._fixed, fixed, strict=True)]
        return keras.StatelessScope(state_mapping=mapping, collect_losses=True)

    def _predicted(self, trained: Any, fixed: Any, parts: Any) -> list[Any]:
        with self._scope(trained, fixed):
            return self._program.predictions(self._program.outputs(parts, training=False))

    def _learned(
        self,
        trained: Any,
        fixed: Any,
        remembered: Any,
        leaves: Any,
        data: Any,
        targets: Any,
        counted: Any,
        rows: Any,
    ) -> Any:
        def loss(trained: Any, leaves: Any) -> Any:
            with self._scope(trained, fixed) as scope:
                outputs = self._program.outputs({**leaves, **data}, training=True)
                total = self._program.loss(outputs, targets, counted, rows)
            return total, (outputs, [scope.get_current_value(v) for v in self._fixed])

        (total, (outputs, moved)), (grads, leaf_grads) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            trained, leaves
        )
        if self._modal:
            predictions = self._predicted(trained, fixed, {**leaves, **data})
        else:
            predictions = self._program.predictions(outputs)
        finite = jnp.isfinite(total)
        for grad in (*grads, *leaf_grads.values()):
            finite &= jnp.isfinite(grad).all()
        stepped, memory = trained, remembered
        if self._optimizer:
            stepped, memory = self._optimizer.stateless_apply(
                remembered, scaled(grads, rows, self._clip_norm), trained
            )
        kept = [
            [jnp.where(finite, new, old) for new, old in zip(news, olds, strict=True)]
            for news, olds in ((stepped, trained), (moved, fixed), (memory, remembered))
        ]
        return tuple(kept), predictions, total, leaf_grads, finite

"""What a Keras model computes of a batch: named tensors, outputs by label, losses. Each backend can trace it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from onstream.contracts import Array, Batch, Label, Layout, Rows
from onstream.errors import JobError
from onstream.learners.inputs import Inputs

__all__ = [
    "LOSSES",
    "Program",
    "acts_otherwise",
    "choose_loss",
    "named",
    "rows_are_apart",
    "scatter",
    "targets_of",
]

Tensor = Any
"""Of whichever backend Keras runs on."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs, labels) -> losses, one a row."""


def _binary(outputs: Tensor, labels: Tensor) -> Tensor:
    return ops.softplus(outputs) - outputs * labels


def _classes(outputs: Tensor, labels: Tensor) -> Tensor:
    return ops.sparse_categorical_crossentropy(ops.cast(labels, "int32"), outputs, from_logits=True)


def _huber(outputs: Tensor, labels: Tensor) -> Tensor:
    error = ops.abs(outputs - labels)
    return ops.where(error <= 1.0, 0.5 * ops.square(error), error - 0.5)


LOSSES: dict[str, dict[str, Loss]] = {
    "binary": {"bce": _binary},
    "class": {"cross_entropy": _classes},
    "real": {
        "mse": lambda outputs, labels: ops.square(outputs - labels),
        "mae": lambda outputs, labels: ops.abs(outputs - labels),
        "huber": _huber,
    },
}
"""By task; the first of each is its default. The names are those of the PyTorch learner, and so are the values."""


def choose_loss(label: Label, wanted: str | Loss | None) -> Loss:
    """Return the loss of a label.

    Raises
    ------
    JobError
        If the task has no loss of that name.
    """
    known = LOSSES[label.task]
    if wanted is None:
        return next(iter(known.values()))
    if not isinstance(wanted, str):
        return wanted
    if wanted not in known:
        raise JobError(
            f"label {label.name!r} is {label.task}: loss must be one of {list(known)}, got {wanted!r}"
        )
    return known[wanted]


class _Named(Inputs):
    """Named tensors of any backend."""

    @staticmethod
    def _join(tensors: list[Tensor]) -> Tensor:
        return ops.stack(tensors, axis=1)


def named(layout: Layout, x: Inputs) -> dict[str, Tensor]:
    """Return what a model is called with: every feature by name, and what is made of several.

    "NAME.mask" of a padded list is where it holds ids; "numbers" are all numbers side by side; "stack" are all
    embeddings as (rows, features, dim), if they are of one dim; "row" is everything side by side. A feature of
    such a name goes before.
    """
    found = dict(x.items())
    for field in layout.fields:
        if field.kind == "list" and field.pooling == "pad":
            found.setdefault(f"{field.name}.mask", x.mask(field.name))
    found.setdefault("numbers", x.numbers())
    dims = {
        field.dim
        for field in layout.fields
        if field.kind == "id" or (field.kind == "list" and field.pooling != "pad")
    }
    if len(dims) == 1:
        found.setdefault("stack", x.stack())
    flat = [ops.reshape(x[name], (-1, int(np.prod(x[name].shape[1:])))) for name in x]
    found.setdefault("row", flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=1))
    return found


class Program:
    """A model and its losses, as functions of the parts of a batch.

    Parameters
    ----------
    model : keras.Model
    layout : Layout
    losses : mapping of str to callable
        By label.
    loss_weights : mapping of str to float
    """

    def __init__(
        self, model: Any, layout: Layout, losses: Mapping[str, Loss], loss_weights: Mapping[str, float]
    ) -> None:
        self.model = model
        self.layout = layout
        self._losses = losses
        self._loss_weights = loss_weights

    def try_out(self, parts: Mapping[str, Array]) -> dict[str, Tensor]:
        """Return the outputs for arrays, computed at once; a model that takes its shapes from a batch is built."""
        return self.outputs(_tensors(parts), training=False)

    def outputs(self, parts: Mapping[str, Tensor], *, training: bool) -> dict[str, Tensor]:
        """Return the logits or values of each label: (rows,), or (rows, classes) for a class label.

        Raises
        ------
        JobError
            If the model asks for what is not there, or gives what does not fit the labels.
        """
        return self.called(_Named(self.layout, parts), training=training)

    def called(self, x: Inputs, *, training: bool) -> dict[str, Tensor]:
        """Return `outputs` for named tensors."""
        found = self.model(self._taken(named(self.layout, x)), training=training)
        labels = self.layout.labels
        if not isinstance(found, Mapping):
            if len(labels) != 1 or isinstance(found, list | tuple):
                names = [label.name for label in labels]
                kind = type(found).__name__
                raise JobError(f"the model must return a dict of tensors by label name {names}, got {kind}")
            found = {labels[0].name: found}
        missing = [label.name for label in labels if label.name not in found]
        if missing:
            raise JobError(f"the model returned {sorted(found)}, the job also has the labels {missing}")
        return {label.name: _shaped(label, found[label.name]) for label in labels}

    def predictions(self, outputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return probabilities or values, in the order of the labels."""
        made = []
        for label in self.layout.labels:
            values = outputs[label.name]
            if label.task == "binary":
                values = ops.sigmoid(values)
            elif label.task == "class":
                values = ops.softmax(values, axis=1)
            made.append(values)
        return made

    def loss(
        self,
        outputs: Mapping[str, Tensor],
        targets: Sequence[Tensor],
        counted: Sequence[Tensor],
        rows: Tensor,
    ) -> Tensor:
        """Return the loss, summed over rows, with what layers add to it once for each row.

        Parameters
        ----------
        outputs : mapping of str to tensor
        targets, counted : sequence of tensors, shape (rows,)
            Of each label, and how much each row counts: 0 where its label is missing.
        rows : scalar tensor, float32
        """
        total = ops.zeros((), "float32")
        for label, target, counts in zip(self.layout.labels, targets, counted, strict=True):
            losses = self._losses[label.name](outputs[label.name], target)
            if tuple(losses.shape) != tuple(target.shape):
                raise JobError(
                    f"the loss of label {label.name!r} must give one value a row, {tuple(target.shape)}, got "
                    f"{tuple(losses.shape)}; do not reduce it"
                )
            losses = ops.where(counts > 0, losses * counts, 0.0)
            total = total + self._loss_weights.get(label.name, 1.0) * ops.sum(losses)
        for penalty in self.model.losses:
            total = total + rows * penalty
        return total

    def _taken(self, x: dict[str, Tensor]) -> Any:
        """Return of the named tensors what the model takes."""
        if isinstance(self.model, keras.Sequential):
            return x["row"]
        # Only models that were made of symbolic tensors have inputs.
        inputs = getattr(self.model, "inputs", None)
        if not inputs:
            return x
        names = [tensor.name for tensor in inputs]
        missing = [name for name in names if name not in x]
        if not missing:
            # Keras takes one tensor by itself for every form of one input but a dictionary.
            alone = len(names) == 1 and not isinstance(getattr(self.model, "_inputs_struct", None), dict)
            return x[names[0]] if alone else {name: x[name] for name in names}
        if len(names) == 1:
            return x["row"]
        raise JobError(f"the model's inputs are {names}, of which {missing} are not among {sorted(x)}")


def targets_of(layout: Layout, batch: Batch) -> tuple[list[Rows], list[Rows]]:
    """Return the labels, 0 where they are missing, and how much each row counts for each of them."""
    targets, counted = [], []
    for label in layout.labels:
        values = batch.labels[label.name]
        present = np.isfinite(values)
        weights = np.ones(len(values), np.float32) if batch.weights is None else batch.weights
        targets.append(np.where(present, values, np.float32(0)))
        counted.append(np.where(present, weights, np.float32(0)))
    return targets, counted


def scatter(layout: Layout, batch: Batch, grads: Mapping[str, Array]) -> dict[str, Rows]:
    """Return the gradient of every pulled row, from those of the parts that `gather_parts` made of them."""
    found = {}
    for spec in layout.tables:
        made = []
        if layout.ids(spec.name):
            made.append(grads[f"ids/{spec.name}"].reshape(-1, spec.dim))
        for field in layout.lists(spec.name):
            grad = grads[f"list/{field.name}"]
            if field.pooling != "pad":
                lengths = np.diff(batch.offsets[field.name])
                if field.pooling == "mean":
                    grad = grad / np.maximum(lengths, 1).astype(np.float32)[:, None]
                grad = np.repeat(grad, lengths, axis=0)
            made.append(grad.reshape(-1, spec.dim))
        found[spec.name] = np.concatenate(made) if len(made) > 1 else made[0]
    return found


def acts_otherwise(program: Program, parts: Mapping[str, Array]) -> bool:
    """Return whether a model acts otherwise in training, judged by its layers and by one batch."""
    model = program.model
    if any(isinstance(layer, keras.layers.BatchNormalization) for layer in model._flatten_layers()):
        return True
    if any(variable.path.endswith("seed_generator_state") for variable in model.non_trainable_variables):
        return True
    # Within the scope variables seem to change, and do not.
    with keras.StatelessScope():
        training = program.outputs(_tensors(parts), training=True)
        predicting = program.try_out(parts)
    pairs = (_arrays(training[name], predicting[name]) for name in training)
    return any(not np.array_equal(one, other) for one, other in pairs)


def rows_are_apart(program: Program, parts: Mapping[str, Array]) -> bool:
    """Return whether what a model gives for a row does not depend on the rows beside it, as far as one batch tells."""
    kinds = (keras.layers.BatchNormalization,)
    if any(isinstance(layer, kinds) for layer in program.model._flatten_layers()):
        return False
    more = {name: np.concatenate([part, np.repeat(part[-1:], 3, axis=0)]) for name, part in parts.items()}
    alone, beside = program.try_out(parts), program.try_out(more)
    rows = len(parts["numbers"])
    pairs = (_arrays(alone[name], beside[name]) for name in alone)
    return all(np.allclose(one, other[:rows], rtol=1e-4, atol=1e-5) for one, other in pairs)


def _tensors(parts: Mapping[str, Array]) -> dict[str, Tensor]:
    return {name: ops.convert_to_tensor(part) for name, part in parts.items()}


def _arrays(*tensors: Tensor) -> list[Array]:
    return [ops.convert_to_numpy(tensor) for tensor in tensors]


def _shaped(label: Label, outputs: Tensor) -> Tensor:
    outputs = ops.cast(outputs, "float32")
    shape = tuple(outputs.shape)
    if label.task != "class" and len(shape) == 2 and shape[1] == 1:
        outputs, shape = ops.squeeze(outputs, 1), shape[:1]
    expected = (label.classes,) if label.task == "class" else ()
    if shape[1:] != expected or not shape:
        told = ", ".join(map(str, ("rows", *expected)))
        raise JobError(f"the model's output for {label.name!r} must be ({told}), got {shape}")
    return outputs

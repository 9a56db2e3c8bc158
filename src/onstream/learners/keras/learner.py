"""The Keras learner: any `keras.Model` over named tensors, on TensorFlow, JAX or PyTorch."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from onstream.contracts import Array, Batch, Layout, Outcome, Predictions, Rows, State
from onstream.errors import JobError, MissingExtraError
from onstream.learners.dropped import Dropped
from onstream.learners.inputs import gather_parts

if TYPE_CHECKING:
    import keras

    from onstream.learners.keras.steps import Step

__all__ = ["Keras"]

Loss: TypeAlias = Callable[[Any, Any], Any]

_TORCH = "random/torch"
_OPTIMIZERS = ("adam", "adamw", "adagrad", "sgd", "rmsprop")


@dataclass(eq=False)
class Keras:
    """Learn with a Keras 3 model, on the backend that `KERAS_BACKEND` names (needs ``onstream[keras]``).

    Parameters
    ----------
    model : keras.Model or callable
        A model, or a class or function that makes one (then its first weights follow from the job's seed). One
        that was made of `keras.Input`s gets what their names say; a `Sequential` gets "row"; any other is called
        with a dictionary of all named tensors. It gives logits or values, (rows,) or (rows, 1); for a class label
        (rows, classes); for several labels a dictionary of these by label name: its last layers have no
        activation.
    loss : str, callable, or dict of these by label name, optional
        "bce", "cross_entropy", "mse", "mae", "huber", or a function of (outputs, labels) giving one loss a row.
        Default: by the label's task.
    optimizer : str, keras.optimizers.Optimizer, or callable
        For the model's own weights: "adam", "adamw", "adagrad", "sgd", "rmsprop", an optimizer, of which a copy is
        taken, or what makes one.
    lr : float
        Learning rate of an optimizer given by name.
    clip_norm : float, optional
        Largest norm of the gradient of all the model's weights together.
    clip_row_norm : float, optional
        Largest norm of the gradient of one row's occurrence.
    loss_weights : dict of str to float, optional
        Weight of each label's loss; default 1.
    max_dropped : int
        Stop after so many batches in a row whose loss or gradients are not finite.
    servable : bool
        Whether checkpoints hold the model in a form that needs none of its code. Exporting it takes a second or
        two, once, before the first checkpoint of a run.

    Notes
    -----
    Named tensors are every feature by its name, as `Inputs` gives them; "NAME.mask" of a padded list; "numbers",
    all numbers side by side; "stack", all embeddings as (rows, features, dim); "row", everything side by side.

    Weights get the gradient of the mean loss over the batch's rows, embedding rows that of the summed loss. What
    layers add to the loss (regularizers) counts once for each row. A row's weight multiplies its loss.

    Predictions are those of the forward pass that learning uses. If the model acts otherwise in training (dropout,
    batch normalization), which is noticed at the first batch, they come from a pass of their own.

    A batch whose loss or gradients are not finite is dropped: weights, statistics and rows keep their values.

    JAX compiles a function for each number of rows. Where rows do not see each other, batches are filled up to a
    power of two with rows that do not count.
    """

    model: keras.Model | Callable[[], keras.Model]
    loss: str | Loss | dict[str, str | Loss] | None = None
    optimizer: Any = "adam"
    lr: float = 1e-3
    clip_norm: float | None = None
    clip_row_norm: float | None = None
    loss_weights: dict[str, float] = field(default_factory=dict)
    max_dropped: int = 10
    servable: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked without Keras."""
        for name in ("lr", "clip_norm", "clip_row_norm", "max_dropped"):
            value = getattr(self, name)
            optional = value is None and name.startswith("clip")
            if not optional and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise JobError(f"Keras: {name} must be a positive number, got {value!r}")
        if not callable(self.model):
            raise JobError(f"Keras: model must be a keras.Model or make one, got {self.model!r}")
        if isinstance(self.optimizer, str) and self.optimizer not in _OPTIMIZERS:
            raise JobError(
                f"Keras: optimizer must be one of {list(_OPTIMIZERS)}, a Keras optimizer or callable, got "
                f"{self.optimizer!r}"
            )

    def bind(self, layout: Layout, seed: int) -> None:
        """Make the model and get ready for batches of `layout`.

        Raises
        ------
        MissingExtraError
            If Keras, or the backend that it is set to, is not installed.
        """
        self.__post_init__()
        try:
            import keras

            from onstream.learners.keras.program import Program, choose_loss
        except ImportError as error:
            raise MissingExtraError(
                f"Keras models need Keras and a backend ({error}): pip install 'onstream[keras]', and set "
                f"KERAS_BACKEND to 'torch', or install 'jax' or 'tensorflow' and name that"
            ) from error
        names = [label.name for label in layout.labels]
        by_label = self.loss if isinstance(self.loss, dict) else dict.fromkeys(names, self.loss)
        for option, given in (("loss", by_label), ("loss_weights", self.loss_weights)):
            if unknown := set(given) - set(names):
                raise JobError(f"Keras: {option} names {sorted(unknown)}, the job's labels are {names}")
        losses = {label.name: choose_loss(label, by_label.get(label.name)) for label in layout.labels}
        self._seed = seed
        self._on_torch = keras.backend.backend() == "torch"
        if self._on_torch:
            # Layers without a seed of their own draw from PyTorch's one generator.
            torch.manual_seed(seed)
        with self._seeded():
            model = self.model if isinstance(self.model, keras.Model) else self.model()
        if not isinstance(model, keras.Model):
            raise JobError(f"Keras: model must give a keras.Model, got {type(model).__name__}")
        self._layout = layout
        self._program = Program(model, layout, losses, self.loss_weights)
        self._named_losses = all(loss is None or isinstance(loss, str) for loss in by_label.values())
        self._step: Step | None = None
        self._optim: Any = None
        self._waiting: State | None = None
        self._modal: bool | None = None
        self._pads = False
        self._dropped = Dropped(self.max_dropped)
        self._exported: State | None = None
        self._export_due = self.servable
        self.notes: list[str] = []

    # ------------------------------------------------------------------------------------ the two verbs

    def predict(self, batch: Batch, rows: dict[str, Rows]) -> Predictions:
        """Predict without changing anything; `rows` are those that the tables gave for the batch's keys."""
        labels = self._layout.labels
        if batch.num_rows == 0:
            shapes = {label.name: (0, label.classes) if label.task == "class" else (0,) for label in labels}
            return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        leaves, data = self._parts(batch, rows)
        found = self._ready(leaves, data).predict(leaves, data)
        return {label.name: values for label, values in zip(labels, found, strict=True)}

    def learn(self, batch: Batch, rows: dict[str, Rows]) -> Outcome:
        """Predict, then take one step.

        Raises
        ------
        DivergedError
            If `max_dropped` batches in a row were dropped.
        """
        from onstream.learners.keras.program import scatter, targets_of

        if batch.num_rows == 0:
            return Outcome(self.predict(batch, rows), 0.0, {})
        leaves, data = self._parts(batch, rows)
        stepped = self._ready(leaves, data).learn(leaves, data, *targets_of(self._layout, batch))
        labels = self._layout.labels
        predictions = {label.name: x for label, x in zip(labels, stepped.predictions, strict=True)}
        loss = stepped.loss / batch.num_rows
        if not stepped.finite:
            self._dropped.add(loss)
            return Outcome(predictions, loss, {}, dropped=True)
        self._dropped.clear()
        row_grads = scatter(self._layout, batch, dict(zip(leaves, stepped.grads, strict=True)))
        if self.clip_row_norm is not None:
            row_grads = {name: _clipped(grad, self.clip_row_norm) for name, grad in row_grads.items()}
        return Outcome(predictions, loss, row_grads)

    def _parts(self, batch: Batch, rows: Mapping[str, Rows]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the parts of a batch: those that gradients are wanted of, and the others."""
        tensors = {name: torch.from_numpy(array) for name, array in rows.items()}
        parts = {name: part.numpy() for name, part in gather_parts(self._layout, batch, tensors).items()}
        leaves = {name: part for name, part in parts.items() if name.startswith(("ids/", "list/"))}
        return leaves, {name: part for name, part in parts.items() if name not in leaves}

    # ---------------------------------------------------------------------------------- the first batch

    def _ready(self, leaves: Mapping[str, Array], data: Mapping[str, Array]) -> Step:
        from onstream.learners.keras.program import acts_otherwise, rows_are_apart
        from onstream.learners.keras.steps import make_step

        parts = {**leaves, **data}
        if self._step is None:
            with self._seeded(), torch.random.fork_rng(devices=[]):
                # Layers take their shapes from a first batch.
                self._program.try_out(parts)
                self._optim = self._make_optimizer()
            if self._waiting is not None:
                self._restore(self._waiting)
                self._waiting = None
            with torch.random.fork_rng(devices=[]):
                if self._modal is None:
                    self._modal = acts_otherwise(self._program, parts)
                self._pads = self._named_losses and rows_are_apart(self._program, parts)
            self._step = make_step(
                self._program, self._optim, modal=self._modal, clip_norm=self.clip_norm, pads=self._pads
            )
        elif self._waiting is not None:
            self._restore(self._waiting)
            self._waiting = None
            self._step.read()
        return self._step

    def _make_optimizer(self) -> Any:
        import keras

        trained = self._program.model.trainable_variables
        if not trained:
            return None
        made = self.optimizer
        if isinstance(made, str):
            made = keras.optimizers.get({"class_name": made, "config": {"learning_rate": self.lr}})
        elif isinstance(made, keras.optimizers.Optimizer):
            # An optimizer belongs to the variables that it was built for.
            made = type(made).from_config(made.get_config())
        else:
            made = made()
        if not isinstance(made, keras.optimizers.Optimizer):
            raise JobError(f"Keras: optimizer must give a Keras optimizer, got {type(made).__name__}")
        made.build(trained)
        return made

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Let what Keras draws follow from the seed, and leave the generators of Python and numpy as they are."""
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(self._seed)
        np.random.seed(self._seed % (1 << 32))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)

    # ------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """Return weights, statistics, states of random generators, and what the optimizer remembers."""
        if self._waiting is not None:
            return self._waiting
        arrays = {}
        if self._step is not None:
            self._step.write()
            arrays = {name: np.array(_numpy(variable)) for name, variable in self._named().items()}
        if self._on_torch:
            arrays[_TORCH] = torch.get_rng_state().numpy().copy()
        kind = type(self._optim).__name__ if self._optim else None
        return State(arrays, {"modal": self._modal, "dropped": self._dropped.in_a_row, "optimizer": kind})

    def load(self, state: State) -> None:
        """Go on from `state`.

        Weights whose name or shape changed since begin anew; `notes` names them.
        """
        # Models take their shapes from the first batch; until then the state waits.
        self._waiting = state
        self._modal = state.facts["modal"] if self._step is None else self._modal
        self._dropped.in_a_row = state.facts["dropped"]

    def export(self) -> State | None:
        """Return the model in a form that predicts without its code.

        Returns
        -------
        State or None
            Of the kind "torch", "stablehlo" (JAX) or "graphdef" (TensorFlow), by the backend: `docs/keras.md` tells
            of them. The same each time; weights are those of `state`. None before the first batch, if the model
            cannot be exported, which `notes` then tells, or if it is not to be `servable`.

        Notes
        -----
        The first call after a batch takes a second or two.
        """
        if self._export_due and self._step is not None and self._waiting is None:
            self._step.write()
            self._export()
        return self._exported

    def _export(self) -> None:
        from onstream.learners.keras.export import export_model

        self._export_due = False
        try:
            named = {n: v for n, v in self._named().items() if n.startswith("network/")}
            self._exported = export_model(self._program, named, pads=self._pads)
        except JobError as error:
            self.notes.append(str(error))

    def _named(self) -> dict[str, Any]:
        """Return all variables by name."""
        from onstream.learners.keras.names import optimizer_names, variable_names

        model = self._program.model
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        names = variable_names(variables)
        found = dict(zip(names, variables, strict=True))
        if self._optim:
            trained = model.trainable_variables
            memory = optimizer_names(self._optim.variables, trained, names[: len(trained)])
            found |= zip(memory, self._optim.variables, strict=True)
            # The job says it, and may say it anew.
            found.pop("optimizer/learning_rate", None)
        return found

    def _restore(self, state: State) -> None:
        own, stored = self._named(), state.arrays
        fitting = {n for n, v in own.items() if n in stored and tuple(v.shape) == stored[n].shape}
        networks = [n for n in own if n.startswith("network/")]
        if anew := sorted(n.removeprefix("network/") for n in networks if n not in fitting):
            self.notes.append(
                f"these weights are new or have another shape and begin anew: {', '.join(anew)}"
            )
            self._modal = None
        gone = sorted(n.removeprefix("network/") for n in set(stored) - set(own) if n.startswith("network/"))
        if gone:
            self.notes.append(
                f"these weights of the checkpoint are not in the model any more: {', '.join(gone)}"
            )
        kind = type(self._optim).__name__ if self._optim else None
        if kind != state.facts["optimizer"]:
            self.notes.append(
                f"the optimizer was {state.facts['optimizer']} and is {kind} now: its state begins anew"
            )
            fitting = {n for n in fitting if not n.startswith("optimizer/")}
        for name in fitting:
            own[name].assign(stored[name])
        if self._on_torch and _TORCH in stored:
            torch.set_rng_state(torch.from_numpy(stored[_TORCH].copy()))


def _numpy(variable: Any) -> Array:
    import keras

    found: Array = keras.ops.convert_to_numpy(variable)
    return found


def _clipped(grad: Rows, most: float) -> Rows:
    norms = np.linalg.norm(grad, axis=1, keepdims=True)
    factors = np.minimum(np.float32(1), np.float32(most) / np.maximum(norms, np.float32(1e-30)))
    clipped: Rows = grad * factors
    return clipped

"""The PyTorch learner: any `nn.Module` over named tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from onstream.contracts import Array, Batch, Layout, Outcome, Predictions, Rows, State
from onstream.errors import CheckpointError, JobError
from onstream.learners.bfloat import has_bfloat16
from onstream.learners.dropped import Dropped
from onstream.learners.export import export_network
from onstream.learners.inputs import Inputs, gather_inputs, parts_of
from onstream.learners.late_losses import LateLosses
from onstream.learners.losses import Loss, activate, choose_loss
from onstream.learners.outputs import compute_outputs
from onstream.learners.weights import read_weights, take_weights

__all__ = ["Torch"]

OptimizerChoice: TypeAlias = str | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}

# Modules whose training mode always differs, even if one small batch does not show it.
_MODAL = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.RReLU,
)


# A network with fewer parameters and inputs together is computed before another thread has woken.
_SMALL = 256


@dataclass(eq=False)
class Torch:
    """Learn with a PyTorch network.

    Parameters
    ----------
    network : nn.Module or callable
        A module, or a class or function that makes one (then its first parameters follow from the job's seed).
        ``forward(x)`` takes an `Inputs` and returns logits or values, (rows,) or (rows, 1); for a class label
        (rows, classes); for several labels a dict of these by label name. Lazy modules are welcome.
    loss : str, callable, or dict of these by label name, optional
        A name of `onstream.learners.losses.LOSSES`, or a function of (outputs, labels) giving one loss a row.
        Default: by the label's task.
    optimizer : str or callable
        For the network's own parameters: "adam", "adamw", "adagrad", "sgd", "rmsprop", or a function from
        parameters to a `torch.optim.Optimizer`.
    lr : float
        Learning rate of an optimizer given by name.
    precision : {"fp32", "bf16"}
        "bf16" computes the network in bfloat16 where that is safe; parameters stay float32. A processor without
        instructions for it would only emulate them, many times slower: there the network is computed in float32,
        which `notes` then tells, and only what is exported is in bfloat16.
    clip_norm : float, optional
        Largest norm of the gradient of all the network's parameters together.
    clip_row_norm : float, optional
        Largest norm of the gradient of one row's occurrence.
    loss_weights : dict of str to float, optional
        Weight of each label's loss; default 1.
    max_dropped : int
        Stop after so many batches in a row whose loss or gradients are not finite.
    servable : bool
        Whether checkpoints hold the network in a form that needs none of its code. Exporting it takes about a
        second, once, before the first checkpoint of a run.

    Notes
    -----
    Parameters get the gradient of the mean loss over the batch's rows, embedding rows that of the summed loss:
    the step of a rare id then does not shrink as batches grow. A row's weight multiplies its loss.

    Predictions are those of the forward pass that learning uses. If the network acts otherwise in training
    (dropout, batch norm), which is noticed at the first batch, they come from an evaluation pass of their own.

    Labels whose feedback comes late have the losses of their policies, see `LateLosses`; a negative of which only a
    share was kept is made up for in what is predicted.

    A batch whose loss or gradients are not finite is dropped: parameters, buffers and rows keep their values.

    A network that is hardly more than a sum, such as logistic regression, is computed by one thread.
    """

    network: nn.Module | Callable[[], nn.Module]
    loss: str | Loss | dict[str, str | Loss] | None = None
    optimizer: OptimizerChoice = "adam"
    lr: float = 1e-3
    precision: Literal["fp32", "bf16"] = "fp32"
    clip_norm: float | None = None
    clip_row_norm: float | None = None
    loss_weights: dict[str, float] = field(default_factory=dict)
    max_dropped: int = 10
    servable: bool = True

    corrects_labels: ClassVar[bool] = True
    """It makes up for labels that are not final, and for negatives that were left out."""

    def __post_init__(self) -> None:
        """Check what can be checked without a batch."""
        if self.precision not in ("fp32", "bf16"):
            raise JobError(f"Torch: precision must be 'fp32' or 'bf16', got {self.precision!r}")
        for name in ("lr", "clip_norm", "clip_row_norm", "max_dropped"):
            value = getattr(self, name)
            optional = value is None and name.startswith("clip")
            if not optional and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise JobError(f"Torch: {name} must be a positive number, got {value!r}")
        if not callable(self.network):
            raise JobError(f"Torch: network must be an nn.Module or make one, got {self.network!r}")
        if isinstance(self.optimizer, str) and self.optimizer not in _OPTIMIZERS:
            raise JobError(
                f"Torch: optimizer must be one of {list(_OPTIMIZERS)} or callable, got {self.optimizer!r}"
            )

    def bind(self, layout: Layout, seed: int) -> None:
        """Make the network and get ready for batches of `layout`."""
        self.__post_init__()
        torch.manual_seed(seed)
        network = self.network if isinstance(self.network, nn.Module) else self.network()
        if not isinstance(network, nn.Module):
            raise JobError(f"Torch: network must give an nn.Module, got {type(network).__name__}")
        names = [label.name for label in layout.labels]
        by_label = self.loss if isinstance(self.loss, dict) else dict.fromkeys(names, self.loss)
        for option, given in (("loss", by_label), ("loss_weights", self.loss_weights)):
            if unknown := set(given) - set(names):
                raise JobError(f"Torch: {option} names {sorted(unknown)}, the job's labels are {names}")
        self._layout = layout
        self._module = network
        self._losses = {label.name: choose_loss(label, by_label.get(label.name)) for label in layout.labels}
        self._late = LateLosses(layout)
        self._optim: torch.optim.Optimizer | None = None
        self._waiting: State | None = None
        self._modal: bool | None = None
        self._dropped = Dropped(self.max_dropped)
        self._exported: State | None = None
        self._export_due = self.servable
        self.notes: list[str] = []
        self._computing = self.precision
        if self.precision == "bf16" and not has_bfloat16():
            self._computing = "fp32"
            self.notes.append(
                "precision='bf16': this processor has no instructions for bfloat16 and would take many times as "
                "long as in float32, so the network is computed in float32 here; a server whose processor has them "
                "computes it in bfloat16, and predicts otherwise by its rounding"
            )

    # ------------------------------------------------------------------------------------ the two verbs

    def predict(self, batch: Batch, rows: dict[str, Rows]) -> Predictions:
        """Predict without changing anything; `rows` are those that the tables gave for the batch's keys."""
        leaves = {name: torch.from_numpy(array) for name, array in rows.items()}
        x = gather_inputs(self._layout, batch, leaves)
        self._ready(x)
        with self._threads(), self._evaluating(), torch.no_grad():
            return self._activate(self._forward(x))

    def learn(self, batch: Batch, rows: dict[str, Rows]) -> Outcome:
        """Predict, then take one step.

        Raises
        ------
        DivergedError
            If `max_dropped` batches in a row were dropped.
        """
        if batch.num_rows == 0:
            # Not even optimizers that remember may take a step: there is nothing to learn from.
            return Outcome(self.predict(batch, rows), 0.0, {})
        leaves = {name: torch.from_numpy(array).requires_grad_() for name, array in rows.items()}
        x = gather_inputs(self._layout, batch, leaves)
        self._ready(x)
        with self._threads():
            return self._step(batch, leaves, x)

    def _step(self, batch: Batch, leaves: dict[str, Tensor], x: Inputs) -> Outcome:
        if self._modal:
            with self._evaluating(), torch.no_grad():
                predictions = self._activate(self._forward(x))
        buffers = [(b, b.clone()) for b in self._module.buffers()]
        outputs = self._forward(x)
        if not self._modal:
            with torch.no_grad():
                predictions = self._activate({name: o.detach() for name, o in outputs.items()})
        loss = self._loss(outputs, batch, x)
        parameters = [p for _, p in self._parameters() if p.requires_grad]
        for parameter in parameters:
            parameter.grad = None
        # Backward of the sum: row gradients need no further pass, and the parameters' are few to divide.
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach()) / max(batch.num_rows, 1)
        grads = [p.grad for p in parameters if p.grad is not None]
        row_grads = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
        if not (math.isfinite(value) and _all_finite([*grads, *row_grads.values()])):
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            self._dropped.add(value)
            return Outcome(predictions, value, {}, dropped=True)
        self._dropped.clear()
        if grads:
            torch._foreach_div_(grads, float(max(batch.num_rows, 1)))
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(parameters, self.clip_norm)
            assert self._optim is not None
            self._optim.step()
        if self.clip_row_norm is not None:
            row_grads = {name: torch.renorm(g, 2, 0, self.clip_row_norm) for name, g in row_grads.items()}
        return Outcome(predictions, value, {name: g.numpy() for name, g in row_grads.items()})

    def _forward(self, x: Inputs) -> dict[str, Tensor]:
        return compute_outputs(self._module, x, self._layout.labels, self._computing, self._late.names)

    def _activate(self, outputs: Mapping[str, Tensor]) -> Predictions:
        return {label.name: activate(label, outputs[label.name]).numpy() for label in self._layout.labels}

    def _loss(self, outputs: Mapping[str, Tensor], batch: Batch, x: Inputs) -> Tensor:
        weights = None if batch.weights is None else torch.from_numpy(batch.weights)
        total = torch.zeros(())
        for name, loss in self._losses.items():
            labels = torch.from_numpy(batch.labels[name])
            present = torch.isfinite(labels)
            complete = bool(present.all())
            filled = labels if complete else torch.where(present, labels, 0.0)
            own = name not in self._late
            losses = loss(outputs[name], filled) if own else self._late(name, outputs, filled, batch, x)
            if losses.shape != labels.shape:
                raise JobError(
                    f"the loss of label {name!r} must give one value a row, {tuple(labels.shape)}, got "
                    f"{tuple(losses.shape)}; do not reduce it"
                )
            if not complete:
                losses = torch.where(present, losses, 0.0)
            if weights is not None:
                losses = losses * weights
            total = total + self.loss_weights.get(name, 1.0) * losses.sum()
        return total

    # ------------------------------------------------------------------- first batch, and both its modes

    def warm_start(self, path: Path, *, rename: Mapping[str, str], strict: bool) -> None:
        """Begin with the parameters of a state dict, see `WarmStarting`; `notes` tells what did not fit."""
        zeros = {part.name: torch.zeros(2, *part.shape, dtype=part.dtype) for part in parts_of(self._layout)}
        self._take_shapes(Inputs(self._layout, zeros))
        weights = read_weights(path)
        self.notes += take_weights(self._module, weights, rename=rename, strict=strict, source=str(path))

    def _take_shapes(self, x: Inputs) -> None:
        """Let lazy modules take their shapes from a first batch."""
        if any(isinstance(p, nn.UninitializedParameter) for p in self._module.parameters()):
            with self._evaluating(), torch.no_grad():
                self._module(x)

    def _ready(self, x: Inputs) -> None:
        if self._modal is not None and self._waiting is None:
            return
        self._take_shapes(x)
        parts = parts_of(self._layout)
        self._small = _num_parameters(self._module) + sum(math.prod(p.shape) for p in parts) < _SMALL
        if self._optim is None:
            if self._late.names:
                with self._evaluating(), torch.no_grad():
                    self._late.make_heads(self._forward(x))
            self._optim = self._make_optimizer()
        if self._waiting is not None:
            self._restore(self._waiting)
            self._waiting = None
        if self._modal is None:
            self._modal = self._modes_differ(x)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters by name: those of the network, and of heads beside it."""
        yield from self._module.named_parameters()
        # No parameter of a network has such a name.
        yield from ((f"late/{name}", parameter) for name, parameter in self._late.named_parameters())

    def _make_optimizer(self) -> torch.optim.Optimizer | None:
        parameters = [p for _, p in self._parameters() if p.requires_grad]
        if not parameters:
            return None
        if not isinstance(self.optimizer, str):
            return self.optimizer(parameters)
        options: dict[str, Any] = {} if self.optimizer == "rmsprop" else {"fused": True}
        return _OPTIMIZERS[self.optimizer](parameters, lr=self.lr, **options)

    def _modes_differ(self, x: Inputs) -> bool:
        if any(isinstance(module, _MODAL) for module in self._module.modules()):
            return True
        buffers = [(b, b.clone()) for b in self._module.buffers()]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            here = torch.get_rng_state()
            training = self._forward(x)
            torch.set_rng_state(here)
            with self._evaluating():
                evaluating = self._forward(x)
            for buffer, before in buffers:
                buffer.copy_(before)
        return any(not torch.equal(training[name], evaluating[name]) for name in training)

    @contextmanager
    def _threads(self) -> Iterator[None]:
        """Compute a small network in this thread alone; always the same one, or the bits could be others."""
        before = torch.get_num_threads()
        if self._small:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if self._small:
                torch.set_num_threads(before)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._module.eval()
        try:
            yield
        finally:
            self._module.train()

    # ------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """Return parameters, buffers, optimizer state and torch's random state."""
        if self._waiting is not None:
            return self._waiting
        arrays: dict[str, Array] = {"random/torch": torch.get_rng_state().numpy().copy()}
        for name, tensor in self._module.state_dict().items():
            if not isinstance(tensor, nn.UninitializedParameter):
                arrays[f"network/{name}"] = _array(tensor)
        arrays |= {f"late/{name}": _array(tensor) for name, tensor in self._late.state_dict().items()}
        for name, parameter in self._parameters():
            for key, value in (self._optim.state.get(parameter, {}) if self._optim else {}).items():
                if not isinstance(value, Tensor | int | float):
                    raise CheckpointError(
                        f"optimizer {type(self._optim).__name__} keeps {key!r} as {type(value).__name__}, which "
                        f"cannot be checkpointed; choose one whose state is tensors and numbers"
                    )
                arrays[f"optimizer/{name}/{key}"] = _array(torch.as_tensor(value))
        kind = type(self._optim).__name__ if self._optim else None
        return State(arrays, {"modal": self._modal, "dropped": self._dropped.in_a_row, "optimizer": kind})

    def load(self, state: State) -> None:
        """Go on from `state`.

        Parameters whose name or shape changed since begin anew; `notes` names them.
        """
        # Lazy modules and optimizers take their shapes from the first batch; until then the state waits.
        self._waiting = state
        self._modal = state.facts["modal"]
        self._dropped.in_a_row = state.facts["dropped"]

    def export(self) -> State | None:
        """Return the network in a form that predicts without its code, as `ExportedNetwork` does.

        Returns
        -------
        State or None
            The same bytes each time; parameters and buffers are those of `state`. None before the first batch,
            if the network cannot be exported, which `notes` then tells, or if it is not to be `servable`.

        Notes
        -----
        The first call after a batch takes about a second.
        """
        if self._export_due and self._modal is not None and self._waiting is None:
            self._export()
        return self._exported

    def _export(self) -> None:
        # Here, and not in a thread: PyTorch watches all calls of modules in the process while it exports one.
        self._export_due = False
        try:
            self._exported = export_network(self._module, self._layout, self.precision)
        except JobError as error:
            self.notes.append(str(error))

    def _restore(self, state: State) -> None:
        own = {
            **self._module.state_dict(),
            **{f"late/{name}": tensor for name, tensor in self._late.state_dict().items()},
        }
        stored = {
            name.removeprefix("network/"): array
            for name, array in state.arrays.items()
            if name.startswith(("network/", "late/"))
        }
        fitting = {n for n, t in own.items() if n in stored and tuple(t.shape) == stored[n].shape}
        if anew := sorted(set(own) - fitting):
            self.notes.append(
                f"these parameters are new or have another shape and begin anew: {', '.join(anew)}"
            )
            self._modal = None
        if gone := sorted(set(stored) - set(own)):
            self.notes.append(
                f"these parameters of the checkpoint are not in the network any more: {', '.join(gone)}"
            )
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(_tensor(stored[name]))
        kind = type(self._optim).__name__ if self._optim else None
        if kind != state.facts["optimizer"]:
            self.notes.append(
                f"the optimizer was {state.facts['optimizer']} and is {kind} now: its state begins anew"
            )
            fitting = set()
        for name, parameter in self._parameters():
            prefix = f"optimizer/{name}/"
            found = {k.removeprefix(prefix): a for k, a in state.arrays.items() if k.startswith(prefix)}
            if self._optim is not None and found and name in fitting:
                # `initial` state of optimizers that make it at construction is replaced, key by key.
                self._optim.state[parameter].update({k: _tensor(a) for k, a in found.items()})
        torch.set_rng_state(_tensor(state.arrays["random/torch"]))


def _num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _all_finite(tensors: list[Tensor]) -> bool:
    # One not finite number makes the sum so; a sum is one pass without a mask in memory. Large finite numbers may sum
    # to more than float32 holds. A float32 sum first; only if that is not finite, in double precision, which takes ten
    # times as long.
    return all(
        math.isfinite(float(t.sum())) or math.isfinite(float(t.sum(dtype=torch.float64))) for t in tensors
    )


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        raise CheckpointError(
            "parameters in bfloat16 cannot be checkpointed; keep them float32, use precision='bf16'"
        )
    return np.array(tensor.numpy())


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))

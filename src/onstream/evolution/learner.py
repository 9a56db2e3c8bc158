"""The evolution learner: a network over a stream's batches, judged by a reward that needs no gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from onstream.contracts import Array, Batch, Layout, Outcome, Predictions, Rows, State
from onstream.errors import JobError
from onstream.evolution.solver import Solver
from onstream.evolution.strategy import Strategy
from onstream.evolution.vectors import Shapes, arrays_of, flatten, shapes_of, split
from onstream.learners import Inputs
from onstream.learners.dropped import Dropped
from onstream.learners.export import export_network
from onstream.learners.inputs import gather_inputs
from onstream.learners.losses import activate
from onstream.learners.outputs import compute_outputs

__all__ = ["Evolution", "Reward"]

Reward: TypeAlias = Callable[[Predictions, Batch], float]
"""(predictions, batch) -> how good these predictions are for this batch; more is better."""

_NETWORK = "network/"


@dataclass(eq=False)
class Evolution:
    """Learn a network by what its predictions earn, without gradients.

    For what is not differentiable: accuracy, a ranking metric, money. Where there is a loss with a gradient, `Torch`
    learns from far fewer rows.

    Parameters
    ----------
    network : nn.Module or callable
        As for `Torch`: ``forward(x)`` takes an `Inputs` and returns logits or values by label.
    reward : callable
        ``reward(predictions, batch) -> float``, more is better. Predictions are probabilities or values, by label,
        as arrays; the batch has `labels`, `weights` and `groups`.
    strategy : Strategy, optional
        How it searches. Each batch makes one update, for which `population` perturbed networks predict it; the
        strategy's seed is added to the job's.
    max_dropped : int
        Stop after so many batches in a row with a reward that is not finite.
    servable : bool
        Whether checkpoints hold the network in a form that needs none of its code.

    Notes
    -----
    Perturbed and learned are the network's own parameters. Embedding rows keep the values that they were born with:
    a reward of the whole batch says next to nothing of one row. Columns to learn from are best numbers and tensors.

    The network is always evaluated, never in training mode, and its buffers stay as they are. A batch costs
    ``population + 1`` forward passes and no backward pass. A batch of which a reward is not finite is dropped.

    Examples
    --------
    >>> from torch import nn
    >>> from onstream import Evolution
    >>> class Linear(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.layer = nn.LazyLinear(1)
    ...     def forward(self, x):
    ...         return self.layer(x.numbers())
    >>> def accuracy(predictions, batch):
    ...     return ((predictions["click"] > 0.5) == (batch.labels["click"] > 0.5)).mean()
    >>> learner = Evolution(Linear, accuracy)
    """

    network: nn.Module | Callable[[], nn.Module]
    reward: Reward
    strategy: Strategy = field(default_factory=lambda: Strategy(population=32))
    max_dropped: int = 10
    servable: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked without a batch."""
        for name in ("network", "reward"):
            if not callable(getattr(self, name)):
                raise JobError(f"Evolution: {name} must be callable, got {getattr(self, name)!r}")
        if not isinstance(self.strategy, Strategy):
            raise JobError(f"Evolution: strategy must be such as Strategy(lr=0.01), got {self.strategy!r}")
        if type(self.max_dropped) is not int or self.max_dropped < 1:
            raise JobError(f"Evolution: max_dropped must be a positive number, got {self.max_dropped!r}")

    def bind(self, layout: Layout, seed: int) -> None:
        """Make the network and get ready for batches of `layout`."""
        self.__post_init__()
        torch.manual_seed(seed)
        network = self.network if isinstance(self.network, nn.Module) else self.network()
        if not isinstance(network, nn.Module):
            raise JobError(f"Evolution: network must give an nn.Module, got {type(network).__name__}")
        self._layout = layout
        self._module = network.eval()
        self._searching = replace(self.strategy, seed=(seed + self.strategy.seed) % (1 << 64))
        self._solver: Solver | None = None
        self._waiting: State | None = None
        self._batches = 0
        self._dropped = Dropped(self.max_dropped, "rewards", "see what `reward` does with these predictions")
        self._exported: State | None = None
        self._export_due = self.servable
        self.notes: list[str] = []

    # ------------------------------------------------------------------------------------ the two verbs

    def predict(self, batch: Batch, rows: dict[str, Rows]) -> Predictions:
        """Predict without changing anything; `rows` are those that the tables gave for the batch's keys."""
        x = self._inputs(batch, rows)
        self._ready(x)
        return self._predictions(self._module, x)

    def learn(self, batch: Batch, rows: dict[str, Rows]) -> Outcome:
        """Predict, let the population predict, and take one step toward those that earned more.

        Returns
        -------
        Outcome
            The loss is what the predictions before the update earned, times -1; there are no row gradients.

        Raises
        ------
        DivergedError
            If `max_dropped` batches in a row were dropped.
        """
        x = self._inputs(batch, rows)
        solver = self._ready(x)
        predictions = self._predictions(self._module, x)
        if batch.num_rows == 0:
            return Outcome(predictions, 0.0, {})
        keys = solver.strategy.population * self._batches + np.arange(solver.strategy.population)
        rewards = [self._tried(solver, key, x, batch) for key in keys.tolist()]
        earned = float(self.reward(predictions, batch))
        self._batches += 1
        if not np.isfinite([*rewards, earned]).all():
            self._dropped.add(earned)
            return Outcome(predictions, -earned, {}, dropped=True)
        self._dropped.clear()
        solver.tell(keys, rewards)
        self._set(solver.parameters)
        return Outcome(predictions, -earned, {})

    def _inputs(self, batch: Batch, rows: Mapping[str, Rows]) -> Inputs:
        leaves = {name: torch.from_numpy(array) for name, array in rows.items()}
        return gather_inputs(self._layout, batch, leaves)

    def _tried(self, solver: Solver, key: int, x: Inputs, batch: Batch) -> float:
        """Return what one perturbation earns."""
        with self._perturbed(solver.parameters + solver.ask([key])[0]):
            return float(self.reward(self._predictions(self._module, x), batch))

    def _predictions(self, network: nn.Module, x: Inputs) -> Predictions:
        with torch.no_grad():
            outputs = compute_outputs(network, x, self._layout.labels, "fp32")
            return {label.name: activate(label, outputs[label.name]).numpy() for label in self._layout.labels}

    # ------------------------------------------------------------------------ parameters as one vector

    def _ready(self, x: Inputs) -> Solver:
        """Return the solver, made at the first batch: lazy modules take their shapes from it."""
        if self._solver is None:
            if any(isinstance(p, nn.UninitializedParameter) for p in self._module.parameters()):
                with torch.no_grad():
                    self._module(x)
            self._shapes: Shapes = shapes_of(self._module)
            if not self._shapes:
                raise JobError("Evolution: the network has no parameters to learn")
            self._trained = {
                name: p for name, p in self._module.named_parameters() if name in dict(self._shapes)
            }
            self._solver = Solver(flatten(arrays_of(self._module), self._shapes), self._searching)
        if self._waiting is not None:
            self._solver = self._restored(self._waiting)
            self._waiting = None
        return self._solver

    @contextmanager
    def _perturbed(self, vector: Rows) -> Iterator[None]:
        own = {name: parameter.data for name, parameter in self._trained.items()}
        try:
            for name, values in split(vector, self._shapes).items():
                self._trained[name].data = torch.from_numpy(values)
            yield
        finally:
            for name, parameter in self._trained.items():
                parameter.data = own[name]

    def _set(self, vector: Rows) -> None:
        with torch.no_grad():
            for name, values in split(vector, self._shapes).items():
                self._trained[name].copy_(torch.from_numpy(values))

    # ------------------------------------------------------------------------------------------- state

    def state(self) -> State:
        """Return parameters and buffers, and what the solver remembers."""
        if self._waiting is not None:
            return self._waiting
        arrays: dict[str, Array] = {
            f"{_NETWORK}{name}": np.array(tensor.detach().numpy())
            for name, tensor in self._module.state_dict().items()
            if not isinstance(tensor, nn.UninitializedParameter)
        }
        facts: dict[str, Any] = {"batches": self._batches, "dropped": self._dropped.in_a_row, "solver": None}
        if self._solver is not None:
            solver = self._solver.state()
            arrays |= solver.arrays
            facts["solver"] = solver.facts
        return State(arrays, facts)

    def load(self, state: State) -> None:
        """Go on from `state`; parameters whose name or shape changed begin anew, and `notes` names them."""
        # Lazy modules take their shapes from the first batch; until then the state waits.
        self._waiting = state
        self._batches = state.facts["batches"]
        self._dropped.in_a_row = state.facts["dropped"]

    def _restored(self, state: State) -> Solver:
        own = self._module.state_dict()
        stored = {n.removeprefix(_NETWORK): a for n, a in state.arrays.items() if n.startswith(_NETWORK)}
        fitting = {n for n, t in own.items() if n in stored and tuple(t.shape) == stored[n].shape}
        with torch.no_grad():
            for name in fitting:
                own[name].copy_(_tensor(stored[name]))
        parameters = flatten(arrays_of(self._module), self._shapes)
        if anew := sorted(set(own) - fitting):
            self.notes.append(
                f"these parameters are new or have another shape and begin anew, and so does the optimizer: "
                f"{', '.join(anew)}"
            )
        if anew or state.facts["solver"] is None:
            return Solver(parameters, self._searching)
        was = state.facts["solver"]["strategy"]["optimizer"]
        if was != self._searching.optimizer:
            self.notes.append(
                f"the optimizer was {was} and is {self._searching.optimizer} now: its state begins anew"
            )
        return Solver.restore(parameters, State(state.arrays, state.facts["solver"]), self._searching)

    def export(self) -> State | None:
        """Return the network in a form that predicts without its code, as `Torch.export` does."""
        if self._export_due and self._solver is not None and self._waiting is None:
            self._export()
        return self._exported

    def _export(self) -> None:
        # Here, and not in a thread: PyTorch watches all calls of modules in the process while it exports one.
        self._export_due = False
        try:
            self._exported = export_network(self._module, self._layout, "fp32")
        except JobError as error:
            self.notes.append(str(error))


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array))

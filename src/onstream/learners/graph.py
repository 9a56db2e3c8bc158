"""Graphs of tensor operators: steps over values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["Graph", "Region", "Slot", "Step", "Use"]


@dataclass(frozen=True, slots=True)
class Use:
    """An operator that takes a value: its name, as which argument, and the type that it is computed in."""

    target: str
    argument: str
    autocast: torch.dtype | None


@dataclass(frozen=True, slots=True)
class Slot:
    """A value of a graph, by its place."""

    at: int


@dataclass(slots=True)
class Step:
    """One call of an operator.

    Attributes
    ----------
    target : str
        Its name in the archive.
    function : callable
    args, kwargs
        Constants, slots, and lists of these.
    names : list of str
        Of all arguments, in order.
    results : list of int
        Where what it gives goes.
    spread : bool
        Whether it gives several values at once.
    last : tuple of int
        Values that no later step takes.
    """

    target: str
    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    names: list[str]
    results: list[int]
    spread: bool
    last: tuple[int, ...] = ()

    def arguments(self) -> list[Any]:
        """Return all arguments, in the order of `names`."""
        return [*self.args, *self.kwargs.values()]


@dataclass
class Graph:
    """Steps over values; may be run by any number of threads at once."""

    num_inputs: int
    size: int
    steps: list[Step] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Return the results for these inputs."""
        values: list[Any] = [*inputs, *[None] * (self.size - self.num_inputs)]
        for step in self.steps:
            args = [_filled(values, arg) for arg in step.args]
            kwargs = {name: _filled(values, arg) for name, arg in step.kwargs.items()}
            found = step.function(*args, **kwargs)
            if step.spread:
                for at, value in zip(step.results, found, strict=True):
                    values[at] = value
            elif step.results:
                values[step.results[0]] = found
            for at in step.last:
                values[at] = None
        return [values[at] for at in self.results]

    def drop_unused(self) -> None:
        """Leave out steps whose results nobody takes, such as the features by name when a network stacks them."""
        needed = set(self.results)
        kept = []
        for step in reversed(self.steps):
            if _changes_nothing(step.function) and needed.isdisjoint(step.results):
                continue
            kept.append(step)
            needed |= {slot.at for arg in step.arguments() for slot in _slots(arg)}
        self.steps = kept[::-1]

    def drop_early(self) -> None:
        """Let each step forget what no later one takes: memory that is in the caches is used again."""
        seen = set(self.results)
        for step in reversed(self.steps):
            own = {slot.at for arg in step.arguments() for slot in _slots(arg)} | {*step.results}
            step.last = tuple(sorted(own - seen))
            seen |= own

    def uses(self, at: int, autocast: torch.dtype | None = None) -> Iterator[Use]:
        """Yield how input `at` is used."""
        if at in self.results:
            yield Use("", "", autocast)
        for step in self.steps:
            for name, arg in zip(step.names, step.arguments(), strict=True):
                if not any(slot.at == at for slot in _slots(arg)):
                    continue
                if isinstance(step.function, Region):
                    region = step.function
                    yield from region.graph.uses(int(name), region.dtype if region.context else autocast)
                else:
                    yield Use(step.target, name, autocast)


@dataclass(frozen=True)
class Region:
    """A part of a graph, computed within a context; `dtype` is that of autocast, None where it is off."""

    graph: Graph
    dtype: torch.dtype | None = None
    context: Callable[[], AbstractContextManager[Any]] | None = None

    def __call__(self, *inputs: Any) -> list[Any]:
        """Return the results of the graph for these inputs."""
        if self.context is None:
            return self.graph.run(inputs)
        with self.context():
            return self.graph.run(inputs)


def _changes_nothing(function: Callable[..., Any]) -> bool:
    return isinstance(function, torch._ops.OpOverload) and not function._schema.is_mutable


def _filled(values: list[Any], arg: Any) -> Any:
    if type(arg) is Slot:
        return values[arg.at]
    if type(arg) is list:
        return [_filled(values, item) for item in arg]
    return arg


def _slots(arg: Any) -> Iterator[Slot]:
    if isinstance(arg, Slot):
        yield arg
    elif isinstance(arg, list):
        for item in arg:
            yield from _slots(item)

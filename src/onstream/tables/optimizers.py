"""Row optimizers: how the gradient of a row changes it. Each is a frozen description; the core does the work.

Each row has its own state, beside its weights. `lr` is the learning rate; every other argument has the name of
its source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from onstream.errors import JobError

__all__ = ["FTRL", "SGD", "Adagrad", "Adam", "GroupFTRL", "RowOptimizer", "RowwiseAdagrad", "Slices"]


_POSITIVE = ("a positive number", lambda x: x > 0)
_SHARE = ("a number from 0 up to, but not, 1", lambda x: 0 <= x < 1)

# With eps or beta 0, a gradient of 0 would divide 0 by 0.
_BOUNDS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "lr": _POSITIVE,
    "eps": _POSITIVE,
    "beta": _POSITIVE,
    "momentum": _SHARE,
    "beta1": _SHARE,
    "beta2": _SHARE,
}


@dataclass(frozen=True)
class RowOptimizer:
    """Base of the row optimizers."""

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        """Check that every number is usable: none may make a row not finite."""
        for name, value in asdict(self).items():
            bound, holds = _BOUNDS.get(name, ("a number, at least 0", lambda x: x >= 0))
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not (number and holds(value)):
                raise JobError(f"{type(self).__name__}: {name} must be {bound}, got {value!r}")

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": self.kind, **asdict(self)}

    def slices(self, dim: int) -> list[dict[str, Any]]:
        """Return what the core needs for a row of `dim` floats."""
        return [{**self.describe(), "width": dim}]


@dataclass(frozen=True)
class SGD(RowOptimizer):
    """Stochastic gradient descent, with momentum if asked: ``v = momentum v + g; w -= lr v``."""

    kind: ClassVar[str] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0


@dataclass(frozen=True)
class Adagrad(RowOptimizer):
    """Adagrad, one accumulator a weight: ``a += g^2; w -= lr g / (sqrt(a) + eps)``.

    The usual choice for embedding rows: rare ids keep a large step.

    References
    ----------
    Duchi, Hazan, Singer 2011, "Adaptive subgradient methods for online learning", diagonal form.
    """

    kind: ClassVar[str] = "adagrad"
    lr: float = 0.05
    initial_accumulator: float = 0.0
    eps: float = 1e-10


@dataclass(frozen=True)
class RowwiseAdagrad(RowOptimizer):
    """Adagrad with one accumulator a row, of the mean squared gradient: 4 bytes of state a row.

    References
    ----------
    Mudigere et al. 2022, "Software-hardware co-design for fast and scalable training of deep learning
    recommendation models", section 4.1.4.
    """

    kind: ClassVar[str] = "rowwise_adagrad"
    lr: float = 0.05
    initial_accumulator: float = 0.0
    eps: float = 1e-10


@dataclass(frozen=True)
class Adam(RowOptimizer):
    """Adam; each row counts its own steps, so rare rows are corrected for bias like frequent ones.

    References
    ----------
    Kingma, Ba 2015, "Adam: a method for stochastic optimization", algorithm 1.
    """

    kind: ClassVar[str] = "adam"
    lr: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class FTRL(RowOptimizer):
    """FTRL-Proximal: weights that carry no signal become exactly 0. `lr` is the paper's alpha.

    References
    ----------
    McMahan et al. 2013, "Ad click prediction: a view from the trenches", algorithm 1.
    """

    kind: ClassVar[str] = "ftrl"
    lr: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0


@dataclass(frozen=True)
class GroupFTRL(RowOptimizer):
    """FTRL with a group lasso: whole rows that carry no signal become exactly 0. `l21` weighs the group norm.

    References
    ----------
    Yue et al. 2021, "Adaptive optimizers with sparse group lasso for neural networks in CTR prediction",
    arXiv 2107.14432, algorithm 2; the group is the row, or the slice where `Slices` is used.
    """

    kind: ClassVar[str] = "group_ftrl"
    lr: float = 0.1
    beta: float = 1.0
    l1: float = 0.0
    l2: float = 0.0
    l21: float = 0.0


@dataclass(frozen=True, init=False)
class Slices(RowOptimizer):
    """Different optimizers for slices of one row, as for a linear weight beside an embedding.

    Examples
    --------
    >>> Slices((1, FTRL(l1=0.1)), (16, Adagrad())).slices(17)[1]["width"]
    16
    """

    kind: ClassVar[str] = "slices"
    parts: tuple[tuple[int, RowOptimizer], ...]

    def __init__(self, *parts: tuple[int, RowOptimizer]) -> None:
        for part in parts:
            width, optimizer = part
            if width < 1 or isinstance(optimizer, Slices):
                raise JobError(f"Slices: each part must be (width, optimizer), got {part!r}")
        object.__setattr__(self, "parts", parts)

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values."""
        return {"kind": self.kind, "parts": [{**o.describe(), "width": w} for w, o in self.parts]}

    def slices(self, dim: int) -> list[dict[str, Any]]:
        """Return what the core needs for a row of `dim` floats."""
        covered = sum(width for width, _ in self.parts)
        if covered != dim:
            raise JobError(f"Slices cover {covered} floats, the row has dim {dim}")
        return [{**o.describe(), "width": width} for width, o in self.parts]

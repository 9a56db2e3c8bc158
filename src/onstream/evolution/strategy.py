"""Strategy: the numbers that decide how an evolution strategy searches."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from onstream.errors import JobError
from onstream.evolution.shaping import SHAPINGS
from onstream.evolution.steps import STEPS

__all__ = ["Strategy"]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How an evolution strategy searches.

    Attributes
    ----------
    sigma : float
        Standard deviation of the perturbation of each parameter; with `sigma_lr`, at first.
    lr : float
        Learning rate. With "adam" it is about the most that one update moves a parameter.
    sigma_lr : float
        How fast the standard deviation of each parameter follows rewards, and steps of the parameter with it; 0
        keeps it as it is. Not with "raw" rewards, of which nobody knows how large they are.
    optimizer : {"adam", "sgd"}
    momentum : float
        Of "sgd"; beta 1 of "adam".
    weight_decay : float
        The gradient of each parameter is made less by this times the parameter.
    population : int
        Rewards that make one update.
    shaping : {"ranks", "nes", "standard", "raw"}
        What rewards are before they weigh perturbations: centered ranks, the utilities of natural evolution
        strategies, mean 0 and standard deviation 1, or as they are.
    seed : int
        Decides the first parameters and the noise.
    noise_size : int, optional
        Numbers of the noise table; by default a power of two of at least 2 ** 22 and 16 a parameter.
    """

    sigma: float = 0.1
    lr: float = 0.05
    sigma_lr: float = 0.0
    optimizer: str = "adam"
    momentum: float = 0.9
    weight_decay: float = 0.0
    population: int = 64
    shaping: str = "ranks"
    seed: int = 0
    noise_size: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("sigma", "lr"):
            if not 0 < self._number(name) < math.inf:
                raise JobError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name in ("sigma_lr", "weight_decay"):
            if not 0 <= self._number(name) < math.inf:
                raise JobError(f"{name} must be 0 or a positive number, got {getattr(self, name)!r}")
        if not 0 <= self._number("momentum") < 1:
            raise JobError(f"momentum must be at least 0 and below 1, got {self.momentum!r}")
        for name, known in (("optimizer", STEPS), ("shaping", SHAPINGS)):
            if getattr(self, name) not in known:
                raise JobError(f"{name} must be one of {list(known)}, got {getattr(self, name)!r}")
        if self.sigma_lr and self.shaping == "raw":
            shaped = [name for name in SHAPINGS if name != "raw"]
            raise JobError(
                f"sigma_lr needs rewards of a known scale: shaping must be one of {shaped}, got 'raw'"
            )
        if type(self.population) is not int or self.population < 2 or self.population % 2:
            raise JobError(f"population must be an even number of at least 2, got {self.population!r}")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 64:
            raise JobError(f"seed must be a whole number from 0 to 2^64 - 1, got {self.seed!r}")
        if self.noise_size is not None and (type(self.noise_size) is not int or self.noise_size < 1):
            raise JobError(f"noise_size must be a positive whole number, got {self.noise_size!r}")

    def strategy(self) -> Strategy:
        """Return these numbers alone, without what a subclass adds."""
        return Strategy(**{field.name: getattr(self, field.name) for field in fields(Strategy)})

    def _number(self, name: str) -> float:
        value = getattr(self, name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan

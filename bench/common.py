"""What every benchmark shares: the line it prints, and how two programs are compared on a noisy machine."""

from __future__ import annotations

import json
import operator
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

HOLDS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}


@dataclass(frozen=True)
class Figure:
    """One measured figure, printed as one line of JSON without the parts that do not apply.

    Parameters
    ----------
    figure : str
        What was measured.
    value : float
        What onstream reached, in `unit`.
    unit : str
    peer : str, optional
        What it is compared with; `peer_value` is what that reached, in the same unit.
    peer_value : float, optional
    ratio : float, optional
        `value` against `peer_value` as the median over rounds, which is not the ratio of two medians.
    goal : str, optional
        A comparison such as ">= 4" or "<= 110". It is about `ratio` where there is one, else about `value`.

    Attributes
    ----------
    holds : bool or None
        Whether the goal is reached. It follows from the numbers and cannot be set.
    """

    figure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    goal: str | None = None
    holds: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.goal is not None:
            sign, limit = self.goal.split()
            measured = self.value if self.ratio is None else self.ratio
            object.__setattr__(self, "holds", HOLDS[sign](measured, float(limit)))

    def line(self) -> str:
        """Return the line of JSON. Numbers are rounded to four digits, after the goal was judged."""
        facts = {name: fact for name, fact in asdict(self).items() if fact is not None}
        return json.dumps({name: rounded(fact) for name, fact in facts.items()})

    def report(self) -> Figure:
        print(self.line(), flush=True)
        return self


@dataclass(frozen=True)
class Comparison:
    """Rates of ours and of the peer (medians), and the median of the ratios of each round, ours to peer."""

    ours: float
    peer: float
    ratio: float


def compare(
    ours: Callable[[], float], peer: Callable[[], float], *, rounds: int = 15, warmup: int = 3
) -> Comparison:
    """Run ours and the peer in turn and compare their rates.

    Parameters
    ----------
    ours, peer : callable
        Do one round of work and return its rate, work per second. See `rate`.
    rounds : int
        Rounds that count.
    warmup : int
        Rounds before them that do not.

    Notes
    -----
    Other work on the machine slows both halves of a round alike, so the ratio within a round is steadier than
    either rate.
    """
    pairs = [(ours(), peer()) for _ in range(warmup + rounds)][warmup:]
    return Comparison(
        ours=statistics.median(first for first, _ in pairs),
        peer=statistics.median(second for _, second in pairs),
        ratio=statistics.median(first / second for first, second in pairs),
    )


def rate(step: Callable[[], object], work: int, *, repeats: int = 1) -> Callable[[], float]:
    """Return a function that runs `step` `repeats` times and returns `work` (that of one step) per second."""

    def measured() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            step()
        return work * repeats / (time.perf_counter() - begin)

    return measured


def rounded(fact: object) -> object:
    if not isinstance(fact, float):
        return fact
    short = float(f"{fact:.4g}")
    return round(fact) if abs(fact) >= 1000 else short

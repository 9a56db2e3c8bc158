"""Bounds that numbers must keep, as people write them: "auc >= 0.7, 0.9 <= calibration <= 1.1"."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from onstream.contracts import Label
from onstream.errors import JobError
from onstream.evaluate.meter import METRIC_NAMES

__all__ = ["Bound", "metric_names", "parse_bounds", "resolve_bounds"]

_SIGN = r"(<=|>=|<|>)"
_NUMBER = r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
_NAME = r"([^\s<>=,]+)"
_ONE_SIDED = re.compile(rf"{_NAME}\s*{_SIGN}\s*{_NUMBER}")
_REVERSED = re.compile(rf"{_NUMBER}\s*{_SIGN}\s*{_NAME}")
_TWO_SIDED = re.compile(rf"{_NUMBER}\s*(<=|<)\s*{_NAME}\s*(<=|<)\s*{_NUMBER}")
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class Bound:
    """What one number must be. Its text, ``str(bound)``, reads back as an equal bound.

    Attributes
    ----------
    name : str
        Of the number. No spaces, commas or comparison signs.
    low, high : float
        Infinite where there is no bound.
    above, below : bool
        Whether the number must be more than `low`, less than `high`, and not equal to it.

    Examples
    --------
    >>> [bound] = parse_bounds("0.9 <= calibration < 1.1")
    >>> bound.holds(0.9), bound.holds(1.1), bound.holds(float("nan"))
    (True, False, False)
    """

    name: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether `value` is within; NaN never is."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        """Return the bound as it is written."""
        low, high = (("<" if strict else "<=") for strict in (self.above, self.below))
        if self.high == math.inf:
            return f"{self.name} {_TURNED[low]} {self.low!r}"
        if self.low == -math.inf:
            return f"{self.name} {high} {self.high!r}"
        return f"{self.low!r} {low} {self.name} {high} {self.high!r}"


def parse_bounds(text: str) -> tuple[Bound, ...]:
    """Read bounds that are separated by commas.

    Parameters
    ----------
    text : str
        Each is ``NAME SIGN NUMBER``, ``NUMBER SIGN NAME`` or ``NUMBER < NAME < NUMBER``, with one of the signs
        ``<``, ``<=``, ``>``, ``>=``.

    Raises
    ------
    JobError
        If one is written otherwise, no number can keep it, or there is none.

    Examples
    --------
    >>> [str(bound) for bound in parse_bounds("auc>=.7, 0.9 <= calibration <= 1.1, 1 > log_loss")]
    ['auc >= 0.7', '0.9 <= calibration <= 1.1', 'log_loss < 1.0']
    """
    return tuple(_parse(part.strip(), text) for part in text.split(","))


def metric_names(labels: Iterable[Label], groups: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return what each metric may be called in a bound, and which numbers of `Report.flat` that means.

    Parameters
    ----------
    labels : iterable of Label
    groups : sequence of str
        Columns within which the AUC of binary labels is measured.

    Returns
    -------
    dict of str to list of str
        "auc" means that of the window, for every label that has it; "click/auc" that of one label;
        "click/window/auc" and "click/overall/auc" are the numbers themselves.
    """
    names: dict[str, list[str]] = {}
    for label in labels:
        grouped = [f"gauc/{group}" for group in groups] if label.task == "binary" else []
        for metric in (*METRIC_NAMES[label.task], *grouped):
            full = f"{label.name}/window/{metric}"
            for name in dict.fromkeys((metric, f"{label.name}/{metric}", full)):
                names.setdefault(name, []).append(full)
        for metric in METRIC_NAMES[label.task]:
            full = f"{label.name}/overall/{metric}"
            names.setdefault(full, []).append(full)
    return names


def resolve_bounds(
    text: str, names: Mapping[str, Sequence[str]], what: str
) -> tuple[tuple[Bound, tuple[str, ...]], ...]:
    """Read bounds and look up the numbers that each is about.

    Parameters
    ----------
    text : str
    names : mapping of str to sequence of str
        What may be bounded, and the numbers that this means.
    what : str
        The setting, for the text of errors.

    Raises
    ------
    JobError
        If `text` is not written as bounds, or a name is not among `names`.
    """
    try:
        bounds = parse_bounds(text)
    except JobError as error:
        raise JobError(f"{what}: {error}") from error
    for bound in bounds:
        if bound.name not in names:
            close = get_close_matches(bound.name, names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise JobError(f"{what}: there is no number {bound.name!r}; {hint}there are: {', '.join(names)}")
    return tuple((bound, tuple(names[bound.name])) for bound in bounds)


def _parse(part: str, whole: str) -> Bound:
    bound = None
    if found := _ONE_SIDED.fullmatch(part):
        bound = _one_sided(found[1], found[2], _number(found[3], part))
    elif found := _TWO_SIDED.fullmatch(part):
        low, high = _number(found[1], part), _number(found[5], part)
        bound = Bound(found[3], low, high, above=found[2] == "<", below=found[4] == "<")
    elif found := _REVERSED.fullmatch(part):
        bound = _one_sided(found[3], _TURNED[found[2]], _number(found[1], part))
    if bound is None or re.fullmatch(_NUMBER, bound.name):
        raise JobError(
            f"{part!r} in {whole!r} is no bound; write bounds as in 'auc >= 0.7, 0.9 <= calibration <= 1.1'"
        )
    if bound.low > bound.high or (bound.low == bound.high and (bound.above or bound.below)):
        raise JobError(f"no number is within {part!r}; the lower bound comes first")
    return bound


def _one_sided(name: str, sign: str, number: float) -> Bound:
    if sign in (">", ">="):
        return Bound(name, low=number, above=sign == ">")
    return Bound(name, high=number, below=sign == "<")


def _number(text: str, part: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise JobError(f"the number {text} of {part!r} is too large")
    return number

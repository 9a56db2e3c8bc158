"""What a join goes by, and what of it must stay while rows wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onstream.errors import JobError
from onstream.feedback import duration_text
from onstream.streams.join.plan import Plan
from onstream.streams.join.reading import InputRules
from onstream.streams.join.times import US_PER_S

__all__ = ["Rules", "check_same_rules"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a join goes by; the first input has the impressions. Durations are in microseconds but for `idle_s`."""

    inputs: tuple[InputRules, ...]
    plan: Plan
    lateness: int
    idle_s: float
    future: int | None

    def describe(self) -> dict[str, Any]:
        """Return what must not change while rows wait, by name, as JSON values."""
        first, *feedback = self.inputs
        told: dict[str, Any] = {
            "on": first.on,
            "time": first.time,
            "unit": first.unit,
            "lateness": self.lateness,
            "labels": [label.name for label in self.plan.labels],
        }
        for label, read in zip(self.plan.labels, feedback, strict=True):
            facts = {"on": read.on, "time": read.time, "value": read.value, **label.describe()}
            told |= {f"{label.name}.{name}": fact for name, fact in facts.items()}
        return told


def check_same_rules(stored: Mapping[str, Any] | Sequence[Any], now: Mapping[str, Any]) -> None:
    """Raise JobError if what a checkpoint says of its join is not what `Rules.describe` says now."""
    if not isinstance(stored, Mapping):
        stored = _named(stored)
        # That of values says only whether there are any.
        now = {name: fact is not None if name.endswith(".value") else fact for name, fact in now.items()}
    changed = [
        f"{name} was {_readable(name, stored[name])} and is {_readable(name, now[name])}"
        # Of other labels all else differs too.
        for name in (now if stored.get("labels") == now["labels"] else ["labels"])
        if name in stored and stored[name] != now[name]
    ]
    if changed:
        raise JobError(
            f"the checkpoint was made by another join: {', '.join(changed)}; while rows wait, its columns, labels, "
            f"windows, policies and lateness must stay: begin in another directory"
        )


def _named(stored: Sequence[Any]) -> dict[str, Any]:
    """Return what the first checkpoints of joins say, which is less, by name."""
    on, time, unit, *labels = stored
    told = {"on": on, "time": time, "unit": unit, "labels": [label[0] for label in labels]}
    names = ("window", "value", "choose", "policy", "early_s", "measured_share")
    for label, *facts in labels:
        told |= {f"{label}.{name}": fact for name, fact in zip(names, facts, strict=True)}
    return told


def _readable(name: str, fact: Any) -> str:
    """Return a fact as people write it: durations with their units."""
    is_duration = name == "lateness" or name.endswith(".window")
    return repr(duration_text(fact / US_PER_S) if is_duration and isinstance(fact, int) else fact)

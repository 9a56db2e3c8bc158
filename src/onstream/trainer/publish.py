"""Publishing: which checkpoints a tag, such as "production", is moved to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onstream.checkpoints import CheckpointLog, Manifest, Tag
from onstream.contracts import Label, Layout
from onstream.errors import CheckpointError
from onstream.evaluate import Bound, metric_names, resolve_bounds
from onstream.trainer.settings import Settings

__all__ = ["Gate", "Published", "Publisher"]


class Gate:
    """Bounds that the metrics of a checkpoint must keep before it is published.

    Parameters
    ----------
    text : str
        As `parse_bounds` reads them. Names are those of `metric_names`.
    labels : sequence of Label
    groups : sequence of str
        Columns within which the AUC is measured.
    min_examples : int
        A label of which fewer examples were evaluated since the stream began keeps the gate closed.

    Raises
    ------
    JobError
        If the text is not written as bounds, or names a metric that no label has.

    Examples
    --------
    >>> gate = Gate("auc >= 0.7", [Label("click", "binary")], min_examples=100)
    >>> gate.refusal({"click/window/auc": 0.65, "click/overall/examples": 5_000})
    'click/window/auc is 0.65, the gate asks auc >= 0.7'
    """

    def __init__(
        self, text: str, labels: Sequence[Label], groups: Sequence[str] = (), *, min_examples: int
    ) -> None:
        self._bounds = resolve_bounds(text, metric_names(labels, groups), "gate")
        self._labels = [label.name for label in labels]
        self._min_examples = min_examples

    @staticmethod
    def of(settings: Settings, layout: Layout, groups: Sequence[str]) -> Gate | None:
        """Return the gate that settings declare for a job's labels, None if they declare none."""
        if settings.gate is None:
            return None
        return Gate(settings.gate, layout.labels, groups, min_examples=settings.gate_min_examples)

    def refusal(self, metrics: Mapping[str, Any]) -> str | None:
        """Return why a version with these metrics is not to be published, None if it is.

        Parameters
        ----------
        metrics : mapping of str to number or None
            As `Report.flat` gives them and a checkpoint keeps them.
        """
        for bound, numbers in self._bounds:
            for number in numbers:
                examples = _number(metrics.get(f"{self._label(number)}/overall/examples"))
                if not examples >= self._min_examples:
                    known = 0 if math.isnan(examples) else examples
                    return (
                        f"{number} is of {known:,.0f} examples, the gate asks at least {self._min_examples:,}"
                    )
                value = _number(metrics.get(number))
                if not bound.holds(value):
                    return f"{number} is {_said(value, bound)}, the gate asks {bound}"
        return None

    def _label(self, number: str) -> str:
        return max((name for name in self._labels if number.startswith(f"{name}/")), key=len)


@dataclass(frozen=True, slots=True)
class Published:
    """What a job has published.

    Attributes
    ----------
    tag : str
    version : int or None
        Where the tag points; None as long as nothing was published.
    state : {"waiting", "open", "closed", "held", "failed"}
        Whether the newest checkpoint was published, or why not: there is none yet, its metrics are out of bounds,
        the tag is held, or the tag could not be written.
    reason : str
        Why not, in words; empty when open or waiting.
    """

    tag: str
    version: int | None = None
    state: str = "waiting"
    reason: str = ""


class Publisher:
    """Move a tag to each version that passes the gate; a tag that is held stays where it is.

    Parameters
    ----------
    log : CheckpointLog
    tag : str
    gate : Gate, optional
        Without one every version passes.
    note : callable
        Receives one sentence whenever the state changes.

    Notes
    -----
    A version is judged by the metrics in its own facts, which are the newest that were reported when it was
    taken: at most `Settings.report_every_s` and one batch older than what the version learned.
    """

    def __init__(self, log: CheckpointLog, tag: str, gate: Gate | None, note: Callable[[str], None]) -> None:
        self._log = log
        self._gate = gate
        self._note = note
        self._told = ""
        self.published = Published(tag)

    def judge(self, manifest: Manifest) -> None:
        """Publish a version, or tell why not. Errors of the store are told, not raised: the next version may pass."""
        name = self.published.tag
        try:
            refusal = self._gate.refusal(manifest.facts.get("metrics") or {}) if self._gate else None
            if refusal is None:
                self._became(self._log.publish(name, manifest.version))
            else:
                tag = self._log.tag_details().get(name)
                self._become("closed", refusal, tag.version if tag else None)
        except CheckpointError as error:
            self._become("failed", str(error), self.published.version)

    def _became(self, tag: Tag) -> None:
        if tag.held:
            self._become("held", f"it was moved to version {tag.version} by hand", tag.version)
        else:
            self._become("open", "", tag.version)

    def _become(self, state: str, reason: str, version: int | None) -> None:
        name = self.published.tag
        self.published = Published(name, version, state, reason)
        if state == self._told:
            return
        self._told = state
        stays = "there is no such tag yet" if version is None else f"it stays at version {version}"
        self._note(
            {
                "open": f"tag {name!r} follows: version {version} is published",
                "closed": f"tag {name!r} does not follow, {stays}: {reason}",
                "held": f"tag {name!r} is held: {reason}; `onstream release` lets it follow again",
                "failed": f"tag {name!r} cannot be moved, {stays}: {reason}",
            }[state]
        )


def _said(value: float, bound: Bound) -> str:
    """Return a number that is out of bounds with as many digits as show it."""
    short = f"{value:.6g}"
    if math.isnan(value):
        return "undefined"
    return repr(value) if bound.holds(float(short)) else short


def _number(value: Any) -> float:
    """Return a JSON value as a number; NaN for what is none."""
    return float(value) if isinstance(value, int | float) else math.nan

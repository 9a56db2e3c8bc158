"""When rows of an impression are emitted, and what each says of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onstream.errors import JobError
from onstream.feedback import Policy, policy_of
from onstream.streams.join.declarations import Choice, Feedback
from onstream.streams.join.times import microseconds

__all__ = ["LabelPlan", "Plan", "Saying", "Stage"]

Saying: TypeAlias = Literal["asked", "first", "final", "settled", "unanswered"]
"""What a row says of a label: nothing yet, for a share of the impressions; the first thing; the outcome as the first
thing; that no feedback came, if the first row was a negative and that is to be settled; or that none came, if there
would have been a row with it."""


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """One label.

    Attributes
    ----------
    name : str
    window : int
        In microseconds, as `Feedback.window`.
    policy : Policy
    valued, choose, default
        As `Feedback.value`, `choose` and `default`.
    """

    name: str
    window: int
    policy: Policy
    valued: bool
    choose: Choice
    default: float | None

    @property
    def told_at_once(self) -> bool:
        """Whether feedback makes a row of its own when it comes, unless a row has told of it."""
        return self.policy.corrects != "none" or self.policy.at_feedback

    @property
    def closes(self) -> bool:
        """Whether a row of its own tells at the end of the window that no feedback came."""
        return self.policy.corrects == "all" or self.policy.at_feedback

    @property
    def early(self) -> bool:
        """Whether it matters when feedback came."""
        return self.policy.early_s is not None or self.policy.at_feedback

    def describe(self) -> dict[str, object]:
        """Return what must not change while impressions wait, by name, as JSON values."""
        return {
            "window": self.window,
            "choose": self.choose,
            # As text, in which no number is lost and NaN is itself.
            "default": None if self.default is None else repr(float(self.default)),
            "policy": self.policy.kind,
            "early_s": self.policy.early_s,
            "measured_share": self.policy.measured_share,
        }


@dataclass(frozen=True, slots=True)
class Stage:
    """A moment in the life of every impression.

    Attributes
    ----------
    offset : int
        When, in microseconds after the impression.
    says : tuple of (int, Saying)
        The labels that a row of that moment is about, by number.
    """

    offset: int
    says: tuple[tuple[int, Saying], ...]


class Plan:
    """The rows that are emitted for each impression.

    Parameters
    ----------
    feedback : sequence of Feedback
    policy : str or Policy
        For labels that name none.
    lateness_s : float

    Attributes
    ----------
    labels : tuple of LabelPlan
    life : int
        How long an impression waits, in microseconds: its longest window.
    stages : tuple of Stage
        In the order of their time. Rows of one moment are one row.
    """

    def __init__(self, feedback: Sequence[Feedback], policy: str | Policy, lateness_s: float) -> None:
        self.labels = tuple(_label(each, policy, lateness_s) for each in feedback)
        self.life = max(label.window for label in self.labels)
        says: dict[int, list[tuple[int, Saying]]] = {self.life: []}
        for i, label in enumerate(self.labels):
            for offset, saying in _sayings(label, self.life):
                says.setdefault(offset, []).append((i, saying))
        # Asked rows are rows of their own, and come first.
        self.stages = tuple(
            Stage(offset, tuple(part))
            for offset in sorted(says)
            for part in _apart(says[offset], last=offset == self.life)
        )

    @property
    def early(self) -> bool:
        """Whether there are rows before the end of an impression's life."""
        return len(self.stages) > 1 or any(label.early for label in self.labels)

    @property
    def asked(self) -> tuple[int, ...]:
        """The labels for which a share of the impressions is asked for at once."""
        return tuple(i for i, label in enumerate(self.labels) if _asked(label))


def _label(feedback: Feedback, policy: str | Policy, lateness_s: float) -> LabelPlan:
    resolved = policy_of(feedback.policy or policy, feedback.window_s, lateness_s)
    if feedback.value is not None and resolved.early_s is not None:
        raise JobError(
            f"feedback {feedback.label!r}: the policy {resolved.kind!r} is for labels without a value; this one can "
            f"have 'wait' or 'when_known'"
        )
    if resolved.at_feedback and (feedback.value is None or feedback.choose != "first"):
        raise JobError(
            f"feedback {feedback.label!r}: the policy {resolved.kind!r} is for the first value of feedback; give the "
            f"column of the value, or choose another policy"
        )
    return LabelPlan(
        feedback.label,
        microseconds(feedback.window_s),
        resolved,
        feedback.value is not None,
        feedback.choose,
        feedback.default,
    )


def _asked(label: LabelPlan) -> bool:
    return label.policy.measured_share > 0 and label.policy.early_s != 0


def _sayings(label: LabelPlan, life: int) -> list[tuple[int, Saying]]:
    found: list[tuple[int, Saying]] = [(0, "asked")] if _asked(label) else []
    early_s = label.policy.early_s
    if label.policy.at_feedback:
        return [*found, (label.window, "unanswered")]
    if early_s is None:
        # Labels that are final when all windows have closed go out together.
        return [*found, (life, "final")]
    found.append((microseconds(early_s), "first"))
    if label.policy.corrects == "all":
        found.append((label.window, "settled"))
    return found


def _apart(says: list[tuple[int, Saying]], *, last: bool) -> list[list[tuple[int, Saying]]]:
    asked = [each for each in says if each[1] == "asked"]
    other = [each for each in says if each[1] != "asked"]
    return [part for part in (asked, other) if part or (last and part is other)]

"""What users say of the feedback that a join brings to its impressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onstream.contracts import Stream
from onstream.errors import JobError
from onstream.feedback import Policy, seconds

__all__ = ["Choice", "Feedback"]

Choice = Literal["first", "last", "max", "sum"]


@dataclass(frozen=True)
class Feedback:
    """A stream of feedback, and the label that it gives to impressions.

    Parameters
    ----------
    stream : Stream
    label : str
        Name of the column that the impression gets.
    window : float or str
        How long after its impression feedback counts: seconds, or text such as "30m".
    value : str, optional
        The column of the feedback that the label is taken from. Without it the label is 1 where there was
        feedback, else 0.
    choose : {"first", "last", "max", "sum"}
        Which value counts of several: that of the earliest or latest event time, the largest, or their sum.
    default : float, optional
        The value of a label without feedback; null if it is not given.
    on, time : str, optional
        Columns of the key and the event time, where they are not called as among the impressions.
    policy : str or Policy, optional
        When impressions are emitted; by default as the join's `policy`. A label with a `value` can have "wait" or
        "when_known".
    """

    stream: Stream
    label: str
    window: float | str
    value: str | None = None
    choose: Choice = "first"
    default: float | None = None
    on: str | None = None
    time: str | None = None
    policy: str | Policy | None = None

    def __post_init__(self) -> None:
        """Check what is said."""
        if not isinstance(self.stream, Stream):
            raise JobError(
                f"feedback {self.label!r} needs a stream, such as Log('clicks.db'), got {self.stream!r}"
            )
        if not isinstance(self.label, str) or not self.label:
            raise JobError(f"label must be the name of a column, got {self.label!r}")
        if self.window_s <= 0:
            raise JobError(f"feedback {self.label!r}: window must be above 0, got {self.window!r}")
        if self.choose not in ("first", "last", "max", "sum"):
            raise JobError(
                f"feedback {self.label!r}: choose must be 'first', 'last', 'max' or 'sum', got {self.choose!r}"
            )
        if self.value is None and (self.choose != "first" or self.default is not None):
            raise JobError(
                f"feedback {self.label!r}: choose and default are for a value; name its column, as in value='seconds'"
            )

    @property
    def window_s(self) -> float:
        """The window in seconds."""
        return seconds(self.window)

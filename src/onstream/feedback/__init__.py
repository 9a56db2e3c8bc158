"""Late feedback: when examples are emitted while their labels are still open, and what the stream says of them."""

from onstream.feedback.choosing import chosen
from onstream.feedback.columns import elapsed_column, phase_column, time_column
from onstream.feedback.durations import duration_text, seconds
from onstream.feedback.labelling import Labelling, labelling_of
from onstream.feedback.policies import (
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeCalibrated,
    FakeNegativeWeighted,
    Policy,
    Wait,
    WhenKnown,
    policy_of,
)

__all__ = [
    "DelayedFeedback",
    "ElapsedTimeSampling",
    "FakeNegativeCalibrated",
    "FakeNegativeWeighted",
    "Labelling",
    "Policy",
    "Wait",
    "WhenKnown",
    "chosen",
    "duration_text",
    "elapsed_column",
    "labelling_of",
    "phase_column",
    "policy_of",
    "seconds",
    "time_column",
]

"""What a stream says of the labels that it emits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onstream.contracts import Stream
from onstream.feedback.policies import Policy

__all__ = ["Labelling", "labelling_of"]


@dataclass(frozen=True)
class Labelling:
    """How the labels of a stream come about.

    Attributes
    ----------
    policies : mapping of str to Policy
        By the column of the label, where feedback may be late.
    negatives_kept : mapping of str to float
        Share of negatives that the stream kept, by the column of the label, where not all.
    key : str
        The column that names impressions; empty if there is none.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    negatives_kept: Mapping[str, float] = field(default_factory=dict)
    key: str = ""


def labelling_of(stream: Stream) -> Labelling:
    """Return what a stream says of its labels, by those of `policies`, `negatives_kept` and `key` that it has."""
    return Labelling(
        policies=dict(getattr(stream, "policies", {})),
        negatives_kept=dict(getattr(stream, "negatives_kept", {})),
        key=str(getattr(stream, "key", "")),
    )

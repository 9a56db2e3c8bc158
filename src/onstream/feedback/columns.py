"""Names of the columns by which a stream tells how far the feedback of a row has come."""

from __future__ import annotations

__all__ = ["elapsed_column", "phase_column", "time_column"]


def phase_column(label: str) -> str:
    """Return the name of the int8 column that holds an `onstream.contracts.Phase`; null: not about this label."""
    return f"{label}.phase"


def elapsed_column(label: str) -> str:
    """Return the name of the float32 column of seconds from the impression to what the row tells.

    That is the delay of the feedback where the row's label comes from feedback, else the age that the impression
    had when the row was due.
    """
    return f"{label}.elapsed"


def time_column(label: str) -> str:
    """Return the name of the float64 column of the impression's event time, in seconds since 1970."""
    return f"{label}.time"

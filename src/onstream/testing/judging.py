"""How laws judge: what predictions, states and gradients must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from onstream.contracts import Label, Outcome, Predictions, Rows, State
from onstream.features import Features
from onstream.testing.subject import Life, broken, differences

__all__ = ["RANDOM", "check_predictions", "expect_equal", "expect_no_gradient", "told_of"]

RANDOM = "random/"
"""Random states move on with every batch that was looked at, learned from or not."""


def check_predictions(found: Predictions, features: Features, rows: int) -> None:
    """Raise unless these are predictions of so many rows, for every label."""
    labels = features.layout.labels
    if sorted(found) != sorted(label.name for label in labels):
        broken(f"predictions of {[label.name for label in labels]}", sorted(found))
    for label in labels:
        values = found[label.name]
        shape = (rows, label.classes) if label.task == "class" else (rows,)
        if values.shape != shape or values.dtype != np.float32:
            broken(f"float32 {shape} for {label.name!r}", f"{values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            broken(f"finite predictions of {label.name!r}", values)
        if label.task != "real" and not _is_probability(label, values):
            broken(f"probabilities for {label.name!r}", values)


def _is_probability(label: Label, values: Rows) -> bool:
    inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and (label.task != "class" or np.allclose(values.sum(1), 1, atol=1e-4))


def expect_equal(found: State, expected: State, what: str) -> None:
    """Raise unless two states are the same, to the bit."""
    if changed := differences(found, expected):
        broken(what, f"others: {changed}")


def expect_no_gradient(life: Life, outcome: Outcome, rows: Any, what: str) -> None:
    """Raise if ids of any of these rows got a gradient."""
    for name, grad in outcome.row_grads.items():
        ids = len(life.features.layout.ids(name))
        block = grad[: len(rows) * ids].reshape(len(rows), ids, -1)
        if np.any(block[rows] != 0):
            broken(f"no gradients from {what}", f"some in the table {name!r}")


def told_of(error: Exception) -> str:
    """Return an error in words."""
    return f"{type(error).__name__}: {error}"

"""Examples for the tests of this room: drawn with many ties, and made into batches."""

from __future__ import annotations

import io
import json

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from onstream.contracts import Batch, State

# How often a law is tried; how long a try takes is no matter of truth.
law = settings(max_examples=30, deadline=None)

# Multiples of 1/8 are exact in float32, tie often, and hold both certainties.
probabilities = st.one_of(
    st.integers(0, 8).map(lambda eighths: eighths / 8),
    st.floats(0, 1, width=32),
)
binary = st.sampled_from([0.0, 1.0])
weights = st.integers(1, 16).map(lambda quarters: quarters / 4)
reals = st.floats(-100, 100, width=32)


@st.composite
def examples(draw, prediction=probabilities, label=binary, min_size=0, max_size=40):
    """Draw prediction, label and weight (or None) of some examples."""
    size = draw(st.integers(min_size, max_size))

    def column(values):
        return np.array(draw(st.lists(values, min_size=size, max_size=size)), np.float32)

    return column(prediction), column(label), column(weights) if draw(st.booleans()) else None


def batch(labels, *, weights=None, groups=None):
    """Return a batch that holds labels and nothing to learn from."""
    num_rows = len(next(iter(labels.values())))
    return Batch(
        num_rows=num_rows,
        keys={},
        offsets={},
        numbers=np.zeros((num_rows, 0), np.float32),
        tensors={},
        labels=labels,
        weights=weights,
        groups=groups or {},
        now=0,
        positions={},
        rejects=(),
        state=State(),
    )


def stored(state):
    """Return a state as it comes back from disk: arrays without pickle, facts as JSON."""
    file = io.BytesIO()
    np.savez(file, **state.arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return State({name: arrays[name] for name in arrays.files}, json.loads(json.dumps(state.facts)))


def bits(values):
    """Return floats as comparable bits, so that NaN equals NaN and -0.0 does not equal 0.0."""
    return {name: np.float64(value).tobytes() for name, value in values.items()}

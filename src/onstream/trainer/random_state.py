"""The global generators of Python and numpy, which a user's code may draw from. PyTorch's is the learner's."""

from __future__ import annotations

import random

import numpy as np

from onstream.contracts import State

__all__ = ["load_random_state", "random_state", "seed_random"]


def seed_random(seed: int) -> None:
    """Begin with the numbers that follow from a seed."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))


def random_state() -> State:
    """Return the states of both."""
    version, words, gauss = random.getstate()
    name, keys, at, has_gauss, cached = np.random.get_state()
    return State(
        {"python": np.array(words, np.uint64), "numpy": np.asarray(keys)},
        {"python": [version, gauss], "numpy": [name, int(at), int(has_gauss), float(cached)]},
    )


def load_random_state(state: State) -> None:
    """Go on from what `random_state` returned."""
    version, gauss = state.facts["python"]
    random.setstate((version, tuple(int(w) for w in state.arrays["python"]), gauss))
    name, at, has_gauss, cached = state.facts["numpy"]
    np.random.set_state((name, state.arrays["numpy"].astype(np.uint32), at, has_gauss, cached))

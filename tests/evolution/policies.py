"""Policies small enough to learn within a test."""

import numpy as np
from torch import nn

from onstream import Episodes, Gym, Policy

# The reward of an episode is how near the scores come to these.
WANTED = np.array([0.5, -1.0], np.float32)

POINT = """
from tests.evolution.policies import point

policy = point({arguments})
"""


def nearness(act, seed):
    """Reward scores that are near to what is wanted, whatever is observed."""
    return -float(np.square(act(np.ones(3)) - WANTED).sum())


def point(**settings):
    """Return a policy of eight parameters that is to give two numbers."""
    known = {"sigma": 0.2, "lr": 0.1, "population": 8, "seed": 3}
    network = settings.pop("network", lambda: nn.Linear(3, 2))
    return Policy(network, Episodes(nearness, (3,), ("x", "y")), **known | settings)


def cartpole(seed=0, **settings):
    known = {"sigma": 0.3, "lr": 0.3, "population": 16}
    return Policy(
        lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)),
        Gym("CartPole-v1"),
        seed=seed,
        **known | settings,
    )

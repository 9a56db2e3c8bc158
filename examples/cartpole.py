"""CartPole-v1 of gymnasium, solved from rewards alone: a mean of at least 475 over 100 episodes.

By three commands in a loop: examples/cartpole.sh. As one job:

    onstream es run examples/cartpole.py models/cartpole --samplers 4 --target 475
"""

import os

from torch import nn

from onstream import Gym, Policy

policy = Policy(
    lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)),
    Gym("CartPole-v1"),
    sigma=0.3,
    lr=0.3,
    population=16,
    seed=int(os.environ.get("SEED", "1")),
)

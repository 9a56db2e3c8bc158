"""CartPole-v1 of gymnasium, solved from rewards alone: a mean of at least 475 over 100 episodes.

By three commands in a loop: examples/cartpole.sh. As one job:

    onstream es run examples/cartpole.py models/cartpole --samplers 4 --target 475
"""

import os

from torch import nn

from onstream import Gym, Policy


def network():
    layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    # Undecided at first: a policy that begins with opinions has to lose them.
    for parameter in layers.parameters():
        nn.init.zeros_(parameter)
    return layers


policy = Policy(
    network,
    Gym("CartPole-v1"),
    sigma=0.4,
    lr=0.38,
    momentum=0.5,
    shaping="standard",
    population=8,
    seed=int(os.environ.get("SEED", "1")),
)

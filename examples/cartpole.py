"""CartPole-v1 of gymnasium, learned from rewards alone: see cartpole.sh, or run it as one job.

onstream es run examples/cartpole.py models/cartpole --samplers 4 --target 475
"""

from torch import nn

from onstream import Gym, Policy

policy = Policy(
    lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)),
    Gym("CartPole-v1"),
    sigma=0.3,
    lr=0.2,
    population=16,
    seed=1,
)

"""Learning to act from rewards alone, by evolution strategies."""

from onstream.evolution.beside import running_samplers
from onstream.evolution.environments import Environment, Episodes, Gym
from onstream.evolution.learner import Evolution
from onstream.evolution.model import Model, begin
from onstream.evolution.noise import NoiseTable, antithetic_keys
from onstream.evolution.policy import Policy
from onstream.evolution.sampler import Sampler, Trial
from onstream.evolution.shaping import centered_ranks
from onstream.evolution.solver import Solver, Update
from onstream.evolution.strategy import Strategy
from onstream.evolution.updater import Progress, Updater

__all__ = [
    "Environment",
    "Episodes",
    "Evolution",
    "Gym",
    "Model",
    "NoiseTable",
    "Policy",
    "Progress",
    "Sampler",
    "Solver",
    "Strategy",
    "Trial",
    "Update",
    "Updater",
    "antithetic_keys",
    "begin",
    "centered_ranks",
    "running_samplers",
]

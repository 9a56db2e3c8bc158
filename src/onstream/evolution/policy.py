"""A policy: a network that acts, where it acts, and how it learns from what that earns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from onstream.checkpoints import is_tag_name
from onstream.errors import JobError
from onstream.evolution.environments import Environment
from onstream.evolution.reward_topic import RewardTopic
from onstream.evolution.strategy import Strategy
from onstream.features import Features, Label
from onstream.features import Tensor as TensorFeature
from onstream.learners import Inputs

__all__ = ["OBSERVATION", "Policy", "Scoring"]

OBSERVATION = "observation"
"""The column that a served policy takes."""

ACTION = "action"


@dataclass(frozen=True)
class Policy(Strategy):
    """A network that learns to act from rewards alone, by an evolution strategy.

    Parameters
    ----------
    network : nn.Module or callable
        A module, or a class or function that makes one (then its first parameters follow from `seed`).
        ``forward(observations)`` takes float32 (rows, *observation) and returns scores, (rows, outputs): one a
        discrete action, of which the largest wins, or the numbers that an action is made of.
    environment : Environment, optional
        Where `onstream es sample` lets it act: `Gym`, `Episodes`, or an object of yours with the same attributes.
        Without it, a program of yours acts and reports rewards through a `Sampler`.
    observation : tuple of int, optional
        Shape of one observation; that of the environment by default.
    actions : int or tuple of str, optional
        How many actions there are to choose one from, or the names of the numbers that an action is made of; those
        of the environment by default.
    discount : float
        A reward that a version earned which is `s` updates old counts ``discount ** s``.
    max_staleness : int
        Rewards of versions that are more updates old are dropped.
    keep : int
        Versions that are kept, besides tagged ones.
    publish : str, optional
        Tag, such as "production", that is moved to each version.
    rewards : str, optional
        Where rewards are logged: ``kafka://host:port/topic``; by default the embedded log ``rewards.db`` in the
        model directory.
    **strategy
        As `Strategy`: sigma, lr, sigma_lr, optimizer, momentum, weight_decay, population, shaping, seed, noise_size.

    Raises
    ------
    JobError
        If one of these is wrong, or the network does not fit the observations and actions.

    Examples
    --------
    >>> from torch import nn
    >>> from onstream import Policy
    >>> policy = Policy(nn.Linear(4, 2), observation=(4,), actions=2, sigma=0.2)
    >>> policy.labels()
    (Label(name='action', task='class', classes=2, column=None, required=True, threshold=None),)
    """

    network: nn.Module | Callable[[], nn.Module]
    environment: Environment | None = None
    observation: tuple[int, ...] | None = None
    actions: int | tuple[str, ...] | None = None
    discount: float = 0.8
    max_staleness: int = 4
    keep: int = 5
    publish: str | None = None
    rewards: str | None = None

    def __post_init__(self) -> None:
        """Check that the parts go together."""
        super().__post_init__()
        if not callable(self.network):
            raise JobError(f"network must be an nn.Module or make one, got {self.network!r}")
        if self.environment is not None and not isinstance(self.environment, Environment):
            raise JobError(
                f"environment must be such as Gym('CartPole-v1') or Episodes(...), got {self.environment!r}"
            )
        for name in ("observation", "actions"):
            if getattr(self, name) is None:
                if self.environment is None:
                    raise JobError(f"a policy without an environment needs its {name}")
                object.__setattr__(self, name, getattr(self.environment, name))
        if not 0 <= self._number("discount") <= 1:
            raise JobError(f"discount must be from 0 to 1, got {self.discount!r}")
        for name, least in (("max_staleness", 0), ("keep", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise JobError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if self.publish is not None and not is_tag_name(self.publish):
            raise JobError(f"publish must be the name of a tag, such as 'production', got {self.publish!r}")
        if self.rewards is not None:
            RewardTopic(self.rewards)
        self.features()

    @property
    def num_outputs(self) -> int:
        """How many scores the network gives an observation."""
        assert self.actions is not None
        return self.actions if isinstance(self.actions, int) else len(self.actions)

    def labels(self) -> tuple[Label, ...]:
        """Return what the policy gives: one label of as many classes as actions, or a number for each name."""
        assert self.actions is not None
        if isinstance(self.actions, int):
            return (Label(ACTION, "class", classes=self.actions),)
        return tuple(Label(name, "real") for name in self.actions)

    def features(self) -> Features:
        """Return what the policy takes and gives, as what is served declares it."""
        assert self.observation is not None
        return Features([TensorFeature(OBSERVATION, tuple(self.observation)), *self.labels()], defaults={})

    def make_network(self) -> nn.Module:
        """Return a network with its first parameters, and check that it fits.

        Raises
        ------
        JobError
            If it fails for an observation, gives another number of scores, or has nothing to learn.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = self.network if isinstance(self.network, nn.Module) else self.network()
            if not isinstance(network, nn.Module):
                raise JobError(f"network must give an nn.Module, got {type(network).__name__}")
            network.eval()
            assert self.observation is not None
            rows = 2
            try:
                # Lazy modules take their shapes from this.
                with torch.no_grad():
                    found = network(torch.zeros((rows, *self.observation)))
            except (RuntimeError, TypeError, ValueError) as error:
                told = " ".join(str(error).split())[:500]
                raise JobError(
                    f"the network fails for observations of shape {self.observation}: {told}"
                ) from error
        shapes = {(rows, self.num_outputs)} | ({(rows,)} if self.num_outputs == 1 else set())
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if got not in shapes:
            raise JobError(
                f"the network must give {(rows, self.num_outputs)} scores for {rows} observations, got {got}"
            )
        if not any(p.requires_grad for p in network.parameters()):
            raise JobError("the network has no parameters to learn")
        return network

    def settings(self) -> dict[str, Any]:
        """Return what rules the model directory, as JSON values."""
        return {
            "seed": self.seed,
            "keep": self.keep,
            "publish": self.publish,
            "rewards": self.rewards,
        }


class Scoring(nn.Module):
    """A policy's network as one over named tensors, which is what is exported and served."""

    def __init__(self, network: nn.Module, actions: int | tuple[str, ...]) -> None:
        super().__init__()
        self.policy = network
        self._actions = actions

    def forward(self, x: Inputs) -> Tensor | dict[str, Tensor]:
        """Return the scores of the actions, or each of the numbers that an action is made of."""
        scores: Tensor = self.policy(x[OBSERVATION])
        if isinstance(self._actions, int):
            return scores
        columns = scores if scores.dim() > 1 else scores.unsqueeze(1)
        return {name: columns[:, at] for at, name in enumerate(self._actions)}

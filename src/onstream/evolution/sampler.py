"""The sampler: takes the newest version, perturbs it by keys, and logs what the perturbations earn."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Array, Rows
from onstream.errors import CheckpointError, DamagedError, JobError
from onstream.evolution.model import Model, open_log
from onstream.evolution.noise import antithetic_keys
from onstream.evolution.policy import Policy
from onstream.evolution.reward_rows import reward_rows
from onstream.evolution.rewards import Rewards, open_rewards
from onstream.evolution.vectors import Population, shapes_of, split

__all__ = ["Sampler", "Trial"]


@dataclass(frozen=True)
class Trial:
    """One perturbed policy, to act and be rewarded.

    Attributes
    ----------
    key : int
        Stands for the perturbation.
    version : int
        Which version is perturbed.
    network : nn.Module
        With the perturbed parameters; its own copy.
    """

    key: int
    version: int
    network: nn.Module
    _sampler: Sampler

    def report(self, reward: float) -> None:
        """Log what it earned; durable when this returns."""
        self._sampler.report(self.key, self.version, reward)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave: a trial that reported nothing is forgotten."""


class Sampler:
    """Try perturbations of the newest version of a policy, and log what they earn.

    Parameters
    ----------
    policy : Policy
    directory : path
        The model directory, which `onstream es init` began.
    seed : int, optional
        Decides, with the rewards that are there already, the keys that are drawn at each version; by default they
        differ each time. Samplers beside each other need seeds of their own.

    Raises
    ------
    CheckpointError
        If the directory holds no policy, or one with other parameters.

    Notes
    -----
    What is logged is a key, a version and a reward: whoever has the same noise table knows the perturbation. Any
    number of samplers may work on a directory, in any number of threads and processes. Methods of one sampler
    are for one thread, but for `report`.

    Examples
    --------
    >>> import tempfile
    >>> import torch
    >>> from torch import nn
    >>> from onstream import Policy, Sampler
    >>> from onstream.evolution import begin
    >>> policy = Policy(nn.Linear(4, 2), observation=(4,), actions=2)
    >>> directory = tempfile.mkdtemp()
    >>> _ = begin(policy, directory)
    >>> with Sampler(policy, directory) as sampler, sampler.draw() as trial:
    ...     action = trial.network(torch.zeros(1, 4)).argmax()
    ...     trial.report(1.0)
    """

    def __init__(self, policy: Policy, directory: str | Path, *, seed: int | None = None) -> None:
        self.policy = policy
        self.directory = Path(directory)
        self._seed = seed
        self._network = policy.make_network()
        self._shapes = shapes_of(self._network)
        _, manifest = open_log(directory)
        self._log = CheckpointLog(LocalStore(self.directory), report=lambda _: None)
        self._rewards: Rewards = open_rewards(directory, manifest.facts["job"]["settings"]["rewards"])
        self._generator = np.random.default_rng(seed)
        self._halves: list[int] = []
        self.version = 0
        self.refresh()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the log of rewards."""
        self._rewards.close()

    def refresh(self) -> bool:
        """Take the newest version; return whether it is another one than before."""
        if self._log.versions()[-1:] == [self.version]:
            return False
        while True:
            manifest = self._log.newest()
            if manifest is None:
                raise CheckpointError(f"{str(self.directory)!r} holds no whole version any more")
            try:
                model = Model.load(self._log, manifest)
                break
            except DamagedError:
                # So many versions came meanwhile that this one was removed.
                if manifest.version in self._log.versions():
                    raise
        self._take(model)
        changed = manifest.version != self.version
        self.version = manifest.version
        self._positions = manifest.positions
        self._halves.clear()
        if changed and self._seed is not None:
            # Who comes to a version again must not try the same, as if that told something new.
            waiting = self._rewards.behind(self._positions)
            self._generator = np.random.default_rng([self._seed, self.version, waiting])
        return changed

    def _take(self, model: Model) -> None:
        if model.shapes != self._shapes:
            raise CheckpointError(
                f"the policy's parameters are {self._shapes}, those of {str(self.directory)!r} are "
                f"{model.shapes}; use the policy that the directory was begun with"
            )
        self._network.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in model.arrays().items()})
        self._solver = model.solver

    # --------------------------------------------------------------------------------- one at a time

    def draw(self) -> Trial:
        """Return a perturbation of the newest version; the next one is its antithetic half.

        Notes
        -----
        The reward may come much later, and from elsewhere: log the trial's key and version with what was done,
        and call `report` with both.
        """
        self.refresh()
        if not self._halves:
            self._halves = antithetic_keys(self._generator, 1).tolist()
        key = self._halves.pop(0)
        network = copy.deepcopy(self._network)
        perturbed = split(self._solver.parameters + self._solver.ask([key])[0], self._shapes)
        network.load_state_dict(
            {n: torch.from_numpy(np.array(a)) for n, a in perturbed.items()}, strict=False
        )
        return Trial(key, self.version, network.requires_grad_(False), self)

    def report(self, key: int, version: int, reward: float) -> None:
        """Log what a perturbation earned; durable when this returns. May be called from any thread.

        Raises
        ------
        JobError
            If no trial can have this key or version.
        StreamError
            If it cannot be logged. In the embedded log it is not there then; in a topic of Kafka it may be there, and
            twice if it is reported again.
        """
        for name, number in (("key", key), ("version", version)):
            if not 0 <= number < 1 << 63:
                raise JobError(f"the {name} of a trial is at least 0 and less than 2**63, got {number!r}")
        self._rewards.append(reward_rows([key], [version], [reward]))

    # ------------------------------------------------------------------------------------ many at once

    def sample(self, count: int) -> Array:
        """Let perturbations of the newest version act for an episode each, log and return what they earned.

        Parameters
        ----------
        count : int
            Even: both halves of each antithetic pair act, with the same luck. All of them act at once, and are
            logged together.

        Returns
        -------
        ndarray of float64, shape (count,)
        """
        if count < 2 or count % 2:
            raise JobError(f"perturbations act in pairs: their number must be even, got {count}")
        self.refresh()
        keys = antithetic_keys(self._generator, count // 2)
        vectors = self._solver.parameters + self._solver.ask(keys)
        earned = self._run(vectors, (keys >> 1).tolist())
        self._rewards.append(reward_rows(keys, np.full(count, self.version), earned))
        return earned

    def wait(self, most_waiting: int, stop: threading.Event) -> None:
        """Return when at most `most_waiting` rewards wait to be learned from, or `stop` is set.

        Rewards that wait make those that follow stale: whoever samples faster than another learns should wait.
        """
        while not stop.is_set():
            self.refresh()
            if self._rewards.behind(self._positions) <= most_waiting:
                return
            stop.wait(self._rewards.poll_s)

    def evaluate(self, episodes: int, *, seed: int = 0) -> Array:
        """Let the newest version act as it is; return what it earned in each episode, and log nothing."""
        self.refresh()
        return self._run(np.repeat(self._solver.parameters[None], episodes, 0), range(seed, seed + episodes))

    def _run(self, vectors: Rows, seeds: range | list[int]) -> Array:
        if self.policy.environment is None:
            raise JobError("the policy has no environment to act in; give it one, such as Gym('CartPole-v1')")
        return self.policy.environment.run(Population(self._network, vectors).scores, seeds)

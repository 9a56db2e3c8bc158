"""Environments: where perturbed policies act, many at once, and what they earn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array, Rows
from onstream.errors import JobError, MissingExtraError

__all__ = ["Act", "Environment", "Episodes", "Gym"]

Act: TypeAlias = Callable[[Rows, npt.NDArray[np.int64]], Rows]
"""(observations (k, *shape), members (k,)) -> scores (k, outputs): what each of these members would do."""


@runtime_checkable
class Environment(Protocol):
    """Where policies act.

    Attributes
    ----------
    observation : tuple of int
        Shape of one observation.
    actions : int or tuple of str
        How many actions there are to choose one from, or the names of the numbers that an action is made of.
    """

    @property
    def observation(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def actions(self) -> int | tuple[str, ...]: ...  # noqa: D102

    def run(self, act: Act, seeds: Sequence[int]) -> Array:
        """Let one member for each seed act for one episode, and return what each earned: float64 (members,).

        The same seed gives a member the same luck: both halves of an antithetic pair get the same.
        """


@dataclass(frozen=True)
class Gym:
    """Environments of gymnasium, by id.

    Parameters
    ----------
    id : str
        Such as "CartPole-v1".
    options : dict, optional
        For `gymnasium.make`.

    Raises
    ------
    MissingExtraError
        If gymnasium is not installed.
    JobError
        If there is no such environment, or its spaces are others than a box of observations and either discrete
        actions or a flat box of them.

    Notes
    -----
    The action is the one with the largest score; in a box of actions, the scores themselves, cut to its bounds.
    Each member has an environment of its own, and those that are done are not computed further.
    """

    id: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look at the spaces."""
        made = self._make()
        spaces = _gymnasium().spaces
        seen, done = made.observation_space, made.action_space
        made.close()
        if not isinstance(seen, spaces.Box) or not seen.shape:
            raise JobError(f"Gym({self.id!r}): observations must be a box of numbers, they are {seen}")
        actions: int | tuple[str, ...]
        if isinstance(done, spaces.Discrete):
            actions = int(done.n)
        elif isinstance(done, spaces.Box) and len(done.shape) == 1:
            actions = tuple(f"action_{i}" for i in range(done.shape[0]))
        else:
            raise JobError(f"Gym({self.id!r}): actions must be discrete or a flat box, they are {done}")
        object.__setattr__(self, "_observation", tuple(seen.shape))
        object.__setattr__(self, "_actions", actions)
        object.__setattr__(self, "_space", done)
        object.__setattr__(self, "_made", [])

    @property
    def observation(self) -> tuple[int, ...]:
        """Shape of one observation."""
        found: tuple[int, ...] = vars(self)["_observation"]
        return found

    @property
    def actions(self) -> int | tuple[str, ...]:
        """Number of actions, or names of their numbers."""
        found: int | tuple[str, ...] = vars(self)["_actions"]
        return found

    def run(self, act: Act, seeds: Sequence[int]) -> Array:
        """Let one member for each seed act for one episode, and return the sums of their rewards."""
        environments = self._environments(len(seeds))
        earned = np.zeros(len(seeds))
        members = np.arange(len(seeds))
        seen = np.stack(
            [e.reset(seed=int(s) % (1 << 31))[0] for e, s in zip(environments, seeds, strict=True)]
        )
        while len(members):
            going = np.ones(len(members), bool)
            actions = self._actions_of(act(np.asarray(seen, np.float32), members))
            after = []
            for at, member in enumerate(members):
                observation, reward, terminated, truncated, _ = environments[member].step(actions[at])
                earned[member] += float(reward)
                going[at] = not (terminated or truncated)
                if going[at]:
                    after.append(observation)
            members = members[going]
            if after:
                seen = np.stack(after)
        return earned

    def _actions_of(self, scores: Rows) -> Array:
        if isinstance(self.actions, int):
            chosen: Array = scores.argmax(1)
            return chosen
        space = vars(self)["_space"]
        clipped: Array = np.clip(scores, space.low, space.high).astype(space.dtype)
        return clipped

    def _environments(self, count: int) -> list[Any]:
        made: list[Any] = vars(self)["_made"]
        made.extend(self._make() for _ in range(count - len(made)))
        return made[:count]

    def _make(self) -> Any:
        gymnasium = _gymnasium()
        try:
            # The checker looks at every step, for those who write environments.
            return gymnasium.make(self.id, disable_env_checker=True, **self.options)
        except gymnasium.error.Error as error:
            raise JobError(f"Gym({self.id!r}): {error}") from error


@dataclass(frozen=True)
class Episodes:
    """Episodes of a function of yours.

    Parameters
    ----------
    function : callable
        ``function(act, seed) -> float`` plays one episode and returns what it earned. ``act(observation)`` takes
        an array of the shape of one observation and returns the scores, float32 (outputs,).
    observation : tuple of int
        Shape of one observation.
    actions : int or tuple of str
        How many actions there are to choose one from, or the names of the numbers that an action is made of.
    """

    function: Callable[[Callable[[npt.ArrayLike], Rows], int], float]
    observation: tuple[int, ...]
    actions: int | tuple[str, ...]

    def run(self, act: Act, seeds: Sequence[int]) -> Array:
        """Play one episode for each seed, one after another."""
        return np.array([self._play(act, member, int(seed)) for member, seed in enumerate(seeds)], np.float64)

    def _play(self, act: Act, member: int, seed: int) -> float:
        members = np.array([member])

        def one(observation: npt.ArrayLike) -> Rows:
            scores: Rows = act(np.asarray(observation, np.float32)[None], members)[0]
            return scores

        return float(self.function(one, seed))


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise MissingExtraError("environments of gymnasium need it: pip install gymnasium") from error
    return gymnasium

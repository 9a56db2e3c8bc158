"""CartPole-v1 as a search for 114 numbers: where every method begins, how it is rewarded, when it is done.

Whoever compares methods uses this, within an environment of its own. `play` is gymnasium's own CartPole with all
members in one array, and the same first states as `reset(seed=...)` gives: much faster, with the same rewards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from torch import nn

TARGET = 475.0
# Solved is a mean of 100 episodes; 10 of them tell most of those that are not.
LOOKS = (10, 100)
HIDDEN = 16
_making = threading.Lock()
SIZE = HIDDEN * 4 + HIDDEN + 2 * HIDDEN + 2

Found = TypeVar("Found")
Vectors: TypeAlias = npt.NDArray[np.float32]
Rewards: TypeAlias = npt.NDArray[np.float64]
Seeds: TypeAlias = Sequence[int]
Play: TypeAlias = Callable[[Vectors, Seeds], Rewards]


def first(seed: int, begin: str) -> Vectors:
    """Return the first parameters: those of PyTorch, with small last weights, or zeros."""
    with _making:
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(4, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2))
        if begin == "small":
            nn.init.normal_(layers[2].weight, std=0.01)
            nn.init.zeros_(layers[2].bias)
    vector = nn.utils.parameters_to_vector(layers.parameters()).detach().numpy()
    return np.zeros_like(vector) if begin == "zeros" else vector


def play(vectors: Vectors, seeds: Seeds) -> Rewards:
    """Let each vector of parameters act for one episode, and return what it earned: (members,)."""
    into, shift, out, bias = np.split(vectors, np.cumsum([HIDDEN * 4, HIDDEN, 2 * HIDDEN]), axis=1)
    into = into.reshape(-1, HIDDEN, 4)
    # Of two actions, the one with the larger score is told by the difference of their scores.
    out, bias = out[:, HIDDEN:] - out[:, :HIDDEN], bias[:, 1] - bias[:, 0]
    earned, members, carts = np.zeros(len(vectors)), np.arange(len(vectors)), CartPoleVectorEnv(len(vectors))
    carts.reset(seed=0)
    carts.state, going = np.array([start(seed) for seed in seeds]).T, np.ones(len(vectors), bool)
    while going.any():
        if 2 * going.sum() < len(going):
            members, carts = members[going], rest(carts, going)
            into, shift, out, bias = into[going], shift[going], out[going], bias[going]
            going = going[going]
        seen = carts.state.T.astype(np.float32)
        hidden = np.tanh(np.einsum("mho,mo->mh", into, seen) + shift)
        right = np.einsum("mh,mh->m", out, hidden) + bias > 0
        _, rewards, terminated, truncated, _ = carts.step(right.astype(np.int64))
        earned[members] += going * rewards
        going &= ~(terminated | truncated)
    return earned


@cache
def start(seed: int) -> Rewards:
    """Return the state in which `reset(seed=seed)` puts the cart."""
    return np.random.default_rng(seed).uniform(-0.05, 0.05, 4)


def rest(carts: CartPoleVectorEnv, going: npt.NDArray[np.bool_]) -> CartPoleVectorEnv:
    """Return the carts that are still going."""
    fewer = CartPoleVectorEnv(int(going.sum()))
    fewer.reset(seed=0)
    fewer.state, fewer.steps = carts.state[:, going], carts.steps[going]
    return fewer


def solved(vector: Vectors, played: Play = play) -> bool:
    """Tell whether the policy as it is earns the target, in episodes that count for nobody."""
    return all(played(np.repeat(vector[None], n, 0), range(n)).mean() >= TARGET for n in LOOKS)


class Arena:
    """Many searches at once, each in a thread: when all threads have asked, all their members play in one call."""

    def __init__(self, threads: int = 256) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._asked: list[tuple[Vectors, Seeds, Future[Rewards]]] = []
        self._left = 0

    def run(self, searches: Sequence[Callable[[Play], Found]]) -> list[Found]:
        """Return what each search finds, given how to play."""
        self._left = len(searches)
        with ThreadPoolExecutor(self._threads) as threads:
            return list(threads.map(self._one, searches))

    def _one(self, search: Callable[[Play], Found]) -> Found:
        try:
            return search(self._play)
        finally:
            with self._lock:
                self._left -= 1
                self._play_all()

    def _play(self, vectors: Vectors, seeds: Seeds) -> Rewards:
        earned: Future[Rewards] = Future()
        with self._lock:
            self._asked.append((vectors, seeds, earned))
            self._play_all()
        return earned.result()

    def _play_all(self) -> None:
        if not self._asked or len(self._asked) < min(self._left, self._threads):
            return
        asked, self._asked = self._asked, []
        rewards = play(np.concatenate([v for v, _, _ in asked]), [s for _, seeds, _ in asked for s in seeds])
        for (vectors, _, earned), end in zip(asked, np.cumsum([len(v) for v, _, _ in asked]), strict=True):
            earned.set_result(rewards[end - len(vectors) : end])

"""CartPole-v1 solved by evotorch, in a virtual environment of its own: what `bench.evolution` compares with.

Run it: python cartpole.py; it reads and writes JSON. Asked for are `runs` of an `algorithm` until it is solved or for
`most_episodes`, each with a `seed`, `options` of the algorithm, and how parameters `begin` (see `problem.first`). If
they are to be `quick`, they play in `problem.Arena` all at once, in place of evotorch's `GymNE`.
"""

import contextlib
import io
import json
import logging
import sys
import time

import gymnasium
import numpy as np
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import PGPE, SNES
from evotorch.neuroevolution import GymNE
from evotorch.tools import ranking
from problem import SIZE, Arena, Play, first, play, solved

logging.disable(logging.WARNING)
torch.set_num_threads(1)
# All rewards alike, as when all have solved it, would be 0 / 0, with which evotorch ends.
ranking.rankers["normalized"] = lambda *given, **named: ranking.normalized(*given, **named).nan_to_num()


class Luck(gymnasium.Wrapper):
    """CartPole-v1 in which two episodes in a row begin alike: for PGPE these are the two halves of a pair."""

    def __init__(self, seed: int) -> None:
        super().__init__(gymnasium.make("CartPole-v1", disable_env_checker=True))
        self._random = np.random.default_rng(seed)
        self._seeds: list[int] = []

    def reset(self, **_):
        if not self._seeds:
            self._seeds = 2 * [int(self._random.integers(1 << 31))]
        return self.env.reset(seed=self._seeds.pop())


class Quick(Problem):
    """The same, with all episodes of a population at once."""

    def __init__(self, seed: int, play: Play) -> None:
        super().__init__("max", solution_length=SIZE, initial_bounds=(0, 0), dtype=torch.float32, seed=seed)
        self._random = np.random.default_rng(seed)
        self._play = play
        self._episodes = 0
        self.after_eval_hook.append(lambda _: {"total_episode_count": self._episodes})

    def _evaluate_batch(self, solutions: SolutionBatch) -> None:
        self._episodes += len(solutions)
        seeds = np.repeat(self._random.integers(1 << 31, size=(len(solutions) + 1) // 2), 2)[: len(solutions)]
        solutions.set_evals(torch.from_numpy(self._play(solutions.values.numpy(), seeds)).float())


def walked(seed: int) -> GymNE:
    with contextlib.redirect_stdout(io.StringIO()):
        return GymNE(
            env=lambda: Luck(seed),
            network="Linear(4, 16) >> Tanh() >> Linear(16, 2)",
            observation_normalization=False,
        )


def solve(run: dict, problem: Problem, play: Play) -> dict:
    """Search until the middle of the search is good: how good it is costs no episodes and no time here."""
    center = torch.from_numpy(first(run["seed"], run["begin"]))
    searcher = {"PGPE": PGPE, "SNES": SNES}[run["algorithm"]](problem, center_init=center, **run["options"])
    seconds, updates = 0.0, 0
    while True:
        started = time.perf_counter()
        searcher.step()
        seconds += time.perf_counter() - started
        updates += 1
        episodes = int(problem.status["total_episode_count"])
        good = solved(searcher.status["center"].numpy(), play)
        if good or episodes >= run["most_episodes"]:
            return {"solved": good, "episodes": episodes, "updates": updates, "seconds": seconds}


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    ruled = {"algorithm": asked["algorithm"], "most_episodes": asked["most_episodes"]}
    runs = [ruled | run for run in asked["runs"]]
    if asked["quick"]:
        searches = [lambda play, run=run: solve(run, Quick(run["seed"], play), play) for run in runs]
        found = Arena().run(searches)
    else:
        found = [solve(run, walked(run["seed"]), play) for run in runs]
    print(json.dumps(found))

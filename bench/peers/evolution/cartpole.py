"""CartPole-v1 solved by evotorch, in a virtual environment of its own: what `bench.evolution` compares with.

Run it: python cartpole.py ALGORITHM SEED '{"popsize": 16, ...}'; it prints one line of JSON.
"""

import contextlib
import io
import json
import logging
import sys
import time

import numpy as np
import torch
from evotorch.algorithms import PGPE, SNES
from evotorch.neuroevolution import GymNE

TARGET = 475.0
# Solved is a mean of 100 episodes; 10 of them tell most of those that are not.
LOOKS = (10, 100)
MOST_EPISODES = 6_000

logging.disable(logging.WARNING)
torch.set_num_threads(1)


def solve(algorithm: str, options: dict) -> dict:
    with contextlib.redirect_stdout(io.StringIO()):
        problem = GymNE(
            env="CartPole-v1",
            network="Linear(4, 16) >> Tanh() >> Linear(16, 2)",
            observation_normalization=False,
        )
    searcher = {"PGPE": PGPE, "SNES": SNES}[algorithm](problem, **options)
    judges = [
        GymNE(
            env="CartPole-v1",
            network="Linear(4, 16) >> Tanh() >> Linear(16, 2)",
            observation_normalization=False,
            num_episodes=episodes,
        )
        for episodes in LOOKS
    ]
    seconds, updates = 0.0, 0
    while True:
        begin = time.perf_counter()
        searcher.step()
        seconds += time.perf_counter() - begin
        updates += 1
        episodes = int(problem.status["total_episode_count"])
        # How good the middle of the search is costs no episodes and no time here.
        solved = all(mean_reward(judge, searcher.status["center"]) >= TARGET for judge in judges)
        if solved or episodes >= MOST_EPISODES:
            return {"solved": solved, "episodes": episodes, "updates": updates, "seconds": seconds}


def mean_reward(judge: GymNE, center: torch.Tensor) -> float:
    batch = judge.generate_batch(1)
    batch.set_values(center.reshape(1, -1))
    judge.evaluate(batch)
    return float(batch.evals[0, 0])


if __name__ == "__main__":
    np.random.seed(int(sys.argv[2]))
    torch.manual_seed(int(sys.argv[2]))
    print(json.dumps(solve(sys.argv[1], json.loads(sys.argv[3]))))

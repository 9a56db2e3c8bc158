"""CartPole-v1 solved from rewards alone, beside evotorch's PGPE and SNES with the same network.

Run it: python -m bench.evolution. Solved is a mean reward of 100 episodes of the unperturbed policy of at least 475,
looked at after every update; these episodes count for nobody. First parameters are made alike, and two
episodes in a row have the same luck: of ours and of PGPE these are the two halves of a pair.

Settings are those that `bench.evolution_tuning` found best for each method, with the same budget for all: 128 trials
of random search, of which population, first deviation, step and first parameters are the same for all methods and the
rest is each method's own; 6 seeds a trial, 20 for the better 32, 60 for the best 8, 160 for the best 2, none of them
those that count here.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import mannwhitneyu

from bench.common import Figure
from bench.data import FOLDER
from bench.peers.evolution.problem import LOOKS, TARGET, Arena, Play, first, solved
from onstream import Policy, Sampler
from onstream.evolution import Solver, Strategy, Updater, antithetic_keys, begin
from onstream.job import load_one

Settings = dict[str, Any]

# The best of `bench.evolution_tuning`. Ours are in the example, too.
METHODS: dict[str, Settings] = {
    "onstream": {
        "begin": "zeros",
        "options": {
            "population": 8,
            "sigma": 0.4,
            "lr": 0.38,
            "optimizer": "adam",
            "momentum": 0.5,
            "shaping": "standard",
        },
    },
    "PGPE": {
        "begin": "zeros",
        "options": {
            "popsize": 8,
            "stdev_init": 0.4,
            "center_learning_rate": 0.38,
            "stdev_learning_rate": 0.22,
            "optimizer": "adam",
            "optimizer_config": {"beta1": 0.5, "beta2": 0.999},
            "ranking_method": "normalized",
        },
    },
    "SNES": {
        "begin": "default",
        "options": {
            "popsize": 6,
            "stdev_init": 0.34,
            "center_learning_rate": 1.6,
            "stdev_learning_rate": 1.3,
            "ranking_method": "nes",
        },
    },
}

SEEDS = range(4_000, 4_200)
# Through what a user runs: our log and checkpoints, and evotorch's `GymNE`.
USED_SEEDS = SEEDS[:10]
JOB_SEEDS = range(2_000, 2_005)
MOST_EPISODES = 2_000
SAMPLERS = 4

HERE = Path(__file__).parent / "peers" / "evolution"
EXAMPLE = Path(__file__).parents[1] / "examples" / "cartpole.py"


@dataclass(frozen=True)
class Solving:
    """What it took. `seconds` is without looking whether it is solved, but for a job of several processes."""

    solved: bool
    episodes: int
    updates: int
    seconds: float


# --------------------------------------------------------------------------------- by the search alone


def solve_all(
    method: str, settings: Settings, seeds: Iterable[int], most_episodes: int = MOST_EPISODES
) -> list[Solving]:
    """Solve it from many seeds, all at once: neither log nor checkpoints decide how many episodes that takes."""
    return solve_runs([settings | {"seed": seed} for seed in seeds], method, most_episodes)


def solve_runs(runs: list[Settings], method: str, most_episodes: int) -> list[Solving]:
    """Solve some runs of `begin`, `options` and `seed`, all at once."""
    if method == "onstream":
        return Arena().run([partial(search, run, most_episodes) for run in runs])
    return ask_evotorch(runs, method, most_episodes, quick=True)


def search(run: Settings, most_episodes: int, play: Play) -> Solving:
    """Let our solver search."""
    seed = run["seed"]
    solver = Solver(first(seed, run["begin"]), Strategy(**run["options"], seed=seed, noise_size=1 << 18))
    random = np.random.default_rng(seed)
    episodes = updates = 0
    while True:
        keys = antithetic_keys(random, solver.strategy.population // 2)
        solver.tell(keys, play(solver.parameters + solver.ask(keys), (keys >> 1) % (1 << 31)))
        episodes += len(keys)
        updates += 1
        good = solved(solver.parameters, play)
        if good or episodes >= most_episodes:
            return Solving(good, episodes, updates, 0.0)


# --------------------------------------------------------------------------------------- as it is used


def solve(seed: int) -> Solving:
    """Sample and update in turn, in this process, through the log and the checkpoints on disk."""
    policy = replace(load_one(EXAMPLE, Policy, ""), seed=seed)
    with tempfile.TemporaryDirectory() as directory:
        begin(policy, directory)
        episodes = updates = 0
        seconds = 0.0
        with Sampler(policy, directory, seed=seed) as sampler:
            while True:
                started = time.perf_counter()
                episodes += len(sampler.sample(policy.population))
                updates += Updater(directory).run()
                seconds += time.perf_counter() - started
                good = all(sampler.evaluate(look).mean() >= TARGET for look in LOOKS)
                if good or episodes >= MOST_EPISODES:
                    return Solving(good, episodes, updates, seconds)


def solve_as_job(seed: int) -> Solving:
    """Run the command with its samplers as processes, until it says that it is solved."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model")
        command = [sys.executable, "-m", "onstream", "es", "run", str(EXAMPLE), str(model)]
        command += ["--samplers", str(SAMPLERS), "--target", str(TARGET), "--evaluate-every", "3"]
        command += [
            "--updates",
            str(MOST_EPISODES // load_one(EXAMPLE, Policy, "").population),
            "--seed",
            str(seed),
        ]
        started = time.perf_counter()
        environment = os.environ | {"SEED": str(seed)}
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
        seconds = time.perf_counter() - started
    looks = [line for line in said.splitlines() if "mean reward of" in line]
    told = [line for line in said.splitlines() if line.endswith(" in all")][-1]
    return Solving(
        bool(looks) and float(looks[-1].split()[-1]) >= TARGET,
        int(told.split()[-3].replace(",", "")),
        int(told.split()[1].rstrip(":")) - 1,
        seconds,
    )


# ------------------------------------------------------------------------------------------- evotorch


def ask_evotorch(runs: list[Settings], algorithm: str, most_episodes: int, *, quick: bool) -> list[Solving]:
    """Let a process of evotorch solve some runs: all at once if `quick`, or one after the other in its `GymNE`."""
    asked = {"algorithm": algorithm, "most_episodes": most_episodes, "quick": quick, "runs": runs}
    command = [str(peer_python()), "-W", "ignore", str(HERE / "cartpole.py")]
    found = subprocess.run(command, input=json.dumps(asked), stdout=subprocess.PIPE, text=True, check=True)
    return [Solving(**solving) for solving in json.loads(found.stdout.splitlines()[-1])]


def peer_python() -> Path:
    """Return the Python of an environment that holds evotorch, made on first use."""
    folder = FOLDER / "evolution-peers"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        constraints = Path(__file__).parents[1] / "constraints.txt"
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints)]
        subprocess.run([*install, "-r", str(HERE / "requirements.txt")], check=True)
        (folder / "done").touch()
    return python


# -------------------------------------------------------------------------------------------- figures


def facts(runs: list[Solving], fact: str) -> list[float]:
    """Return a fact of each run; one that did not solve it took for ever."""
    return [getattr(run, fact) if run.solved else float("inf") for run in runs]


def quartile(runs: list[Solving], fact: str, which: int) -> float:
    return statistics.quantiles(facts(runs, fact), n=4, method="inclusive")[which - 1]


def report_search(solvings: dict[str, list[Solving]]) -> None:
    """Report episodes with their spread, and how sure it is that ours are fewer."""
    ours, *_ = solvings.values()
    for name, runs in list(solvings.items())[1:]:
        for which, called in ((1, "first quartile"), (2, "median"), (3, "third quartile")):
            mine, theirs = quartile(ours, "episodes", which), quartile(runs, "episodes", which)
            Figure(
                f"CartPole-v1 solved, {called} of {len(runs)} seeds, episodes",
                mine,
                "episodes",
                peer=f"evotorch {name}",
                peer_value=theirs,
                ratio=mine / theirs,
                goal="<= 1" if called == "median" else None,
            ).report()
        test = mannwhitneyu(facts(runs, "episodes"), facts(ours, "episodes"))
        chance = test.statistic / len(ours) / len(runs)
        Figure(
            f"CartPole-v1, chance that ours solves it in fewer episodes than {name}", chance, "of 1"
        ).report()
        Figure(
            f"CartPole-v1, the same if there were no difference (Mann-Whitney, {name})", test.pvalue, "p"
        ).report()
    for name, runs in solvings.items():
        share = sum(run.solved for run in runs) / len(runs)
        Figure(f"CartPole-v1, {name}: solved within {MOST_EPISODES:,} episodes", share, "of seeds").report()


def report_use(solvings: dict[str, list[Solving]]) -> None:
    """Report what it takes with all that is used to run it."""
    ours, *_ = solvings.values()
    for name, runs in list(solvings.items())[1:]:
        for fact in ("episodes", "updates", "seconds"):
            mine, theirs = quartile(ours, fact, 2), quartile(runs, fact, 2)
            Figure(
                f"CartPole-v1 solved as used, median of {len(runs)} seeds, {fact}",
                mine,
                "s" if fact == "seconds" else fact,
                peer=f"evotorch {name}",
                peer_value=theirs,
                ratio=mine / theirs,
            ).report()


def main() -> None:
    torch.set_num_threads(1)
    report_search({name: solve_all(name, settings, SEEDS) for name, settings in METHODS.items()})
    used = {"onstream": [solve(seed) for seed in USED_SEEDS]}
    for name in list(METHODS)[1:]:
        runs = [METHODS[name] | {"seed": seed} for seed in USED_SEEDS]
        used[name] = ask_evotorch(runs, name, MOST_EPISODES, quick=False)
    report_use(used)
    jobs = [solve_as_job(seed) for seed in JOB_SEEDS]
    for fact in ("episodes", "updates", "seconds"):
        Figure(
            f"CartPole-v1 solved as one job of {SAMPLERS} samplers, median of {len(JOB_SEEDS)} seeds, {fact}",
            quartile(jobs, fact, 2),
            "s" if fact == "seconds" else fact,
        ).report()


if __name__ == "__main__":
    main()

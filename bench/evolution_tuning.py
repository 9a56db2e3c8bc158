"""The settings of `bench.evolution`, found with the same number of trials for our method and for its peers.

Run it: python -m bench.evolution_tuning [METHOD ...]. Random search with successive halving (Jamieson and Talwalkar
2016), for each method alike: all trials play the first seeds, the better quarter goes on with more, and the best of
those with more yet (see `RUNGS`). Better is the lower median, then mean, of episodes until solved; of the last two it
is the lower mean alone, as a median does not see runs that never end. What all methods have in common is drawn first,
so that it is the same in each trial of all; then each draws what is its own.

A step is the learning rate in units of sigma, which is what the methods take themselves or are given here.
Results go to bench/results/evolution_tuning.json; nothing of them is used until it is written into `bench.evolution`.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.evolution import Settings, solve_runs
from bench.peers.evolution.problem import SIZE

# Trials that go on, and how many seeds they have played by then.
RUNGS = ((128, 6), (32, 20), (8, 60), (2, 160))
# Those that count are below these; see `bench.evolution.SEEDS`.
FIRST_SEED = 10_000
MOST_EPISODES = 600
RESULTS = Path(__file__).parent / "results" / "evolution_tuning.json"


# ------------------------------------------------------------------------------------------- spaces


# What a learning rate of evotorch has to be for a step of one sigma. Its gradients have the unit of sigma; Adam makes
# them 1, parameter by parameter, and ClipUp all in all.
UNITS: dict[str, Callable[[float], float]] = {
    "none": lambda _: 1.0,
    "sgd": lambda _: 1.0,
    "adam": lambda sigma: sigma,
    "clipup": lambda sigma: sigma * SIZE**0.5,
}


def shared(random: np.random.Generator) -> Settings:
    return {
        "population": int(random.choice([4, 6, 8, 12, 16, 24, 32])),
        "sigma": between(random, 0.1, 3.0),
        "step": between(random, 0.1, 5.0),
        "begin": str(random.choice(["zeros", "small", "default"])),
    }


def ours(random: np.random.Generator, common: Settings) -> Settings:
    optimizer = str(random.choice(["adam", "sgd"]))
    sigma, step = common["sigma"], common["step"]
    return {
        "population": common["population"],
        "sigma": sigma,
        "lr": rounded(step * sigma if optimizer == "adam" else step * sigma**2),
        "optimizer": optimizer,
        "momentum": float(random.choice([0.0, 0.5, 0.9])),
        "shaping": str(random.choice(["ranks", "nes", "standard"])),
        "sigma_lr": between(random, 0.01, 1.0) if random.random() < 0.5 else 0.0,
    }


def pgpe(random: np.random.Generator, common: Settings) -> Settings:
    optimizer = str(random.choice(["adam", "clipup", "sgd"]))
    momentum = float(random.choice([0.0, 0.5, 0.9]))
    ranking = str(random.choice(["centered", "nes", "normalized"]))
    unit = UNITS[optimizer](common["sigma"])
    if (optimizer, ranking) == ("sgd", "nes"):
        # These utilities are for a sum, and it takes the mean.
        unit *= common["population"]
    named = {
        "adam": {"beta1": momentum, "beta2": 0.999},
        "sgd": {"momentum": momentum, "dampening": momentum},
    }
    return {
        "popsize": common["population"],
        "stdev_init": common["sigma"],
        "center_learning_rate": rounded(common["step"] * unit),
        "stdev_learning_rate": between(random, 0.01, 1.0),
        "optimizer": optimizer,
        "optimizer_config": named.get(optimizer, {"momentum": momentum}),
        "ranking_method": ranking,
    }


def snes(random: np.random.Generator, common: Settings) -> Settings:
    optimizer = str(random.choice(["none", "none", "adam", "clipup"]))
    return {
        "popsize": common["population"],
        "stdev_init": common["sigma"],
        "center_learning_rate": rounded(common["step"] * UNITS[optimizer](common["sigma"])),
        # In units of its default.
        "stdev_learning_rate": between(random, 0.1, 10.0),
        "optimizer": None if optimizer == "none" else optimizer,
        "ranking_method": str(random.choice(["nes", "centered"])),
    }


SPACES: dict[str, Callable[[np.random.Generator, Settings], Settings]] = {
    "onstream": ours,
    "PGPE": pgpe,
    "SNES": snes,
}


def between(random: np.random.Generator, low: float, high: float) -> float:
    """Draw a number, its logarithm evenly."""
    return rounded(float(np.exp(random.uniform(np.log(low), np.log(high)))))


def rounded(number: float) -> float:
    return float(f"{number:.2g}")


def trials(method: str) -> list[Settings]:
    """Draw the trials of a method: what they have in common is the same for all methods."""
    drawn = []
    for number in range(RUNGS[0][0]):
        common = shared(np.random.default_rng([number, 0]))
        options = SPACES[method](np.random.default_rng([number, 1]), common)
        drawn.append({"settings": {"begin": common["begin"], "options": options}, "episodes": []})
    return drawn


# ------------------------------------------------------------------------------------------- search


def search(method: str) -> list[Settings]:
    """Return all trials of a method with the episodes they took, the best first."""
    found = trials(method)
    for count, seeds in RUNGS:
        runs = [
            (trial, seed)
            for trial in sorted(found, key=rank)[:count]
            for seed in range(FIRST_SEED + len(trial["episodes"]), FIRST_SEED + seeds)
        ]
        solvings = solve_runs(
            [trial["settings"] | {"seed": seed} for trial, seed in runs], method, MOST_EPISODES
        )
        for (trial, _), run in zip(runs, solvings, strict=True):
            trial["episodes"].append(run.episodes if run.solved else MOST_EPISODES)
    return sorted(found, key=rank)


def rank(trial: Settings) -> tuple[float, ...]:
    """What went further is better than what did not."""
    return -len(trial["episodes"]), *merit(trial)


def best(found: list[Settings]) -> Settings:
    """Return the trial whose settings count."""
    return min(found[: RUNGS[-1][0]], key=lambda trial: statistics.fmean(trial["episodes"]))


def merit(trial: Settings) -> tuple[float, float]:
    episodes = trial["episodes"] or [0]
    return statistics.median(episodes), statistics.fmean(episodes)


def main() -> None:
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    for method in sys.argv[1:] or SPACES:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        results[method] = search(method)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        trial = best(results[method])
        print(method, *merit(trial), json.dumps(trial["settings"]), flush=True)


if __name__ == "__main__":
    main()

"""The commands of evolution strategies: begin, act, learn, and all of it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onstream.cli.console import counted, say
from onstream.cli.mistakes import mistakes_shown
from onstream.cli.options import parse_changes
from onstream.errors import JobError
from onstream.job import load_one
from onstream.trainer.signals import stopped_by_signals

if TYPE_CHECKING:
    from onstream.evolution import Policy, Progress

__all__ = ["es"]

es = typer.Typer(
    help="Learn to act from rewards alone, by an evolution strategy.",
    no_args_is_help=True,
)

PolicyFile = Annotated[Path, typer.Argument(metavar="POLICY", help="The policy file.", show_default=False)]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The model directory.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change how it learns, such as lr=0.01 or population=128."
    ),
]
_EPISODES = 100


@es.command("init")
def begin_policy(path: PolicyFile, directory: Directory) -> None:
    """Begin a model directory: its first version is the policy as it is made."""
    from onstream.evolution import begin

    with mistakes_shown(path):
        manifest = begin(_policy(path), directory)
    say(
        f"version {manifest.version} of {directory}; next:\n"
        f"  onstream es sample {path} {directory} --episodes 100\n  onstream es update {directory}"
    )


@es.command("sample")
def sample_policy(
    path: PolicyFile,
    directory: Directory,
    episodes: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="End after so many, an even number; by default, go on until Ctrl-C, waiting for new versions.",
        ),
    ] = None,
    together: Annotated[
        int | None,
        typer.Option(
            min=2, help="How many act at once: an even number; as many as make an update by default."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Decides which perturbations are tried; beside other samplers, one of its own."
        ),
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", hidden=True, help="End when standard input does.")
    ] = False,
) -> None:
    """Let perturbations of the newest version act, and log what they earn. Any number of these may run."""
    from onstream.evolution import Sampler

    if episodes is not None and episodes % 2:
        raise JobError(f"perturbations act in pairs: --episodes must be even, got {episodes}")
    _act_alone()
    policy = _policy(path)
    stop = threading.Event()
    if beside:
        threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    logged = 0
    with mistakes_shown(path), stopped_by_signals(stop), Sampler(policy, directory, seed=seed) as sampler:
        most = together or policy.population
        while not stop.is_set() and (episodes is None or logged < episodes):
            if episodes is None:
                sampler.wait(policy.population - 1, stop)
                if stop.is_set():
                    break
            earned = sampler.sample(most if episodes is None else min(most, episodes - logged))
            logged += len(earned)
            if not beside:
                say(f"version {sampler.version}: {len(earned)} episodes, mean reward {earned.mean():.2f}")
    if not beside:
        say(f"{logged:,} rewards logged")


@es.command("update")
def update_policy(
    directory: Directory,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more rewards, until Ctrl-C.")] = False,
    changes: Changes = None,
) -> None:
    """Learn from the logged rewards, and publish a version for each update that they make."""
    from onstream.evolution import Updater

    stop = threading.Event()
    with stopped_by_signals(stop):
        made = Updater(directory, changes=_changes(changes), note=say).run(stop, follow=follow, updated=_told)
    say(counted(made, "update"))


@es.command("evaluate")
def evaluate_policy(
    path: PolicyFile,
    directory: Directory,
    episodes: Annotated[int, typer.Option(min=1, help="How many.")] = _EPISODES,
    target: Annotated[
        float | None, typer.Option(help="Exit with 1 if the mean reward is less than this.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the luck of each episode.")] = 0,
) -> None:
    """Let the newest version act as it is, and print the mean reward. Nothing is logged."""
    from onstream.evolution import Sampler

    _act_alone()
    with mistakes_shown(path), Sampler(_policy(path), directory) as sampler:
        mean = float(sampler.evaluate(episodes, seed=seed).mean())
        say(f"version {sampler.version}: mean reward of {episodes} episodes {mean:.2f}")
    if target is not None and mean < target:
        raise typer.Exit(1)


@es.command("run")
def run_policy(
    path: PolicyFile,
    directory: Directory,
    samplers: Annotated[int, typer.Option(min=0, help="Processes that act.")] = 2,
    updates: Annotated[int | None, typer.Option(min=1, help="End after so many updates.")] = None,
    target: Annotated[
        float | None,
        typer.Option(help="End when the newest version earns this in the mean of 100 episodes."),
    ] = None,
    evaluate_every: Annotated[
        int, typer.Option(min=1, help="Look whether the target is reached after so many updates.")
    ] = 5,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Decides which perturbations each sampler tries.")
    ] = None,
    changes: Changes = None,
) -> None:
    """Sample and update at once, as one job; begins the directory if it holds nothing. Ctrl-C ends it."""
    from onstream.checkpoints import CheckpointLog, LocalStore
    from onstream.evolution import Sampler, Updater, begin, running_samplers

    _act_alone()
    policy = _policy(path)
    if not CheckpointLog(LocalStore(directory)).versions():
        with mistakes_shown(path):
            begin(policy, directory)
    stop = threading.Event()
    made = 0
    commands = [_sampler_command(path, directory, policy, samplers, at, seed) for at in range(samplers)]
    with mistakes_shown(path), Sampler(policy, directory) as judge:

        def updated(progress: Progress) -> None:
            nonlocal made
            made += 1
            _told(progress)
            if updates is not None and made >= updates:
                stop.set()
            if target is not None and made % evaluate_every == 0:
                mean = float(judge.evaluate(_EPISODES).mean())
                say(f"version {judge.version}: mean reward of {_EPISODES} episodes {mean:.2f}")
                if mean >= target:
                    stop.set()

        with (
            stopped_by_signals(stop) as signals,
            running_samplers(commands, stop, say) as failures,
        ):
            Updater(directory, changes=_changes(changes), note=say).run(stop, follow=True, updated=updated)
    if failures:
        raise JobError(failures[0])
    say(counted(made, "update"))
    if signal.SIGINT in signals:
        raise typer.Exit(130)


# ------------------------------------------------------------------------------------------- helpers


def _policy(path: Path) -> Policy:
    from onstream.evolution import Policy

    return load_one(path, Policy, "docs/evolution.md shows one")


def _sampler_command(
    path: Path, directory: Path, policy: Policy, samplers: int, at: int, seed: int | None
) -> list[str]:
    """Return the command of one of several samplers, which share the perturbations of an update."""
    together = _even(max(2, policy.population // samplers))
    command = [*(sys.executable, "-m", "onstream", "es", "sample"), str(path), str(directory)]
    command += ["--together", str(together), "--beside"]
    return command if seed is None else [*command, "--seed", str(seed * samplers + at)]


def _told(progress: Progress) -> None:
    update = progress.update
    stale = f", {update.stale} of older versions" if update.stale else ""
    dropped = f", {update.dropped} dropped" if update.dropped else ""
    say(
        f"version {progress.version}: {update.used} rewards{stale}{dropped}, mean {update.mean:.2f}, "
        f"best {update.best:.2f}; {progress.rewards:,} in all"
    )


def _changes(changes: list[str] | None) -> dict[str, Any]:
    return {name: _number(value) for name, value in parse_changes(changes, "lr=0.01").items()}


def _number(text: str) -> int | float | str:
    kinds: tuple[Callable[[str], int | float], ...] = (int, float)
    for kind in kinds:
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _even(number: int) -> int:
    return number + number % 2


def _act_alone() -> None:
    """Keep small networks to one thread: those of several samplers would wait for each other."""
    import torch

    torch.set_num_threads(1)


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()

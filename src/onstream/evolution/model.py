"""What a version holds: the solver, and the policy in the form in which it is served."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onstream.checkpoints import CheckpointLog, LocalStore, Manifest, Snapshot
from onstream.contracts import Array, Positions, State
from onstream.errors import CheckpointError, JobError
from onstream.evolution.policy import Policy, Scoring
from onstream.evolution.solver import Solver, Update
from onstream.evolution.strategy import Strategy
from onstream.evolution.vectors import Shapes, arrays_of, flatten, shapes_of, split
from onstream.learners.export import export_network

__all__ = ["Model", "begin", "open_log"]

# Within what is served, the policy is a part (see `Scoring`).
_PREFIX = "network/policy."


@dataclass
class Model:
    """A solver, and the policy whose parameters it moves.

    Attributes
    ----------
    solver : Solver
    shapes : Shapes
        Of the parameters that the solver moves.
    constants : dict of str to ndarray
        Buffers and frozen parameters of the network, by name.
    network : State
        As `export_network` gave it.
    features : State
    job : dict
        JSON values that say what the model takes and gives, and how its directory is kept.
    rewards : int
        How many have counted since the beginning.
    """

    solver: Solver
    shapes: Shapes
    constants: dict[str, Array]
    network: State
    features: State
    job: dict[str, Any]
    rewards: int = 0

    @classmethod
    def begin(cls, policy: Policy) -> Model:
        """Return the model of a policy that has learned nothing."""
        network = policy.make_network()
        shapes = shapes_of(network)
        arrays = arrays_of(network)
        features = policy.features()
        assert policy.actions is not None
        solver = Solver(
            flatten(arrays, shapes),
            policy.strategy(),
            discount=policy.discount,
            max_staleness=policy.max_staleness,
        )
        moved = dict(shapes)
        return cls(
            solver,
            shapes,
            {name: array for name, array in arrays.items() if name not in moved},
            export_network(Scoring(network, policy.actions), features.layout, "fp32"),
            features.state(),
            {"kind": "Policy", "features": features.describe(), "settings": policy.settings()},
        )

    @classmethod
    def load(cls, log: CheckpointLog, manifest: Manifest, changes: Mapping[str, Any] | None = None) -> Model:
        """Return the model of a version, with some of its strategy changed.

        Raises
        ------
        CheckpointError
            If the version is damaged, or not one of a policy.
        JobError
            If a change is not possible.
        """
        if manifest.facts.get("job", {}).get("kind") != "Policy":
            raise CheckpointError(
                f"version {manifest.version} is not of a policy; `onstream es init` begins a directory of one"
            )
        learner = log.states(manifest, "learner")
        shapes = tuple((str(name), tuple(shape)) for name, shape in learner.facts["shapes"])
        moved = dict(shapes)
        arrays = {
            name.removeprefix(_PREFIX): array
            for name, array in learner.arrays.items()
            if name.startswith(_PREFIX)
        }
        strategy = _changed(learner.facts["strategy"], changes or {})
        solver = Solver.restore(flatten(arrays, shapes), learner, strategy)
        solver.became(manifest.version)
        return cls(
            solver,
            shapes,
            {name: array for name, array in arrays.items() if name not in moved},
            log.states(manifest, "network"),
            log.states(manifest, "features"),
            manifest.facts["job"],
            int(learner.facts["rewards"]),
        )

    def commit(self, log: CheckpointLog, positions: Positions, update: Update | None = None) -> Manifest:
        """Make the model as it stands the newest version, with the positions up to which rewards were read."""
        # Nobody else writes: the log has the writer's lock.
        self.solver.became(max(log.versions(), default=0) + 1)
        state = self.solver.state()
        return log.commit(
            Snapshot(
                states={
                    "network": self.network,
                    "learner": State(
                        {f"{_PREFIX}{name}": array for name, array in self.arrays().items()} | state.arrays,
                        {"shapes": [[n, list(s)] for n, s in self.shapes], "rewards": self.rewards}
                        | state.facts,
                    ),
                    "features": self.features,
                },
                positions=positions,
                facts={
                    "job": self.job,
                    "metrics": asdict(update) if update else {},
                    "updates": self.solver.updates,
                    "examples": self.rewards,
                    "event_time": 0,
                    "time": time.time(),
                },
            )
        )

    def arrays(self) -> dict[str, Array]:
        """Return all parameters and buffers of the policy, by name."""
        return {**self.constants, **split(self.solver.parameters, self.shapes)}


def begin(policy: Policy, directory: str | Path) -> Manifest:
    """Make the first version of a policy in a directory that holds none.

    Raises
    ------
    JobError
        If the directory has versions, or the policy cannot be exported.
    """
    with CheckpointLog(LocalStore(directory), keep=policy.keep) as log:
        if versions := log.versions():
            raise JobError(
                f"{str(directory)!r} has versions up to {versions[-1]}; go on with them, or use another directory"
            )
        manifest = Model.begin(policy).commit(log, {})
        if policy.publish is not None:
            log.publish(policy.publish, manifest.version)
        return manifest


def open_log(directory: str | Path) -> tuple[CheckpointLog, Manifest]:
    """Return the log of a directory, to read, and its newest version.

    Raises
    ------
    CheckpointError
        If it holds none.
    """
    path = Path(directory)
    log = CheckpointLog(LocalStore(path)) if (path / "manifests").is_dir() else None
    newest = log.newest() if log else None
    if log is None or newest is None:
        raise CheckpointError(
            f"{str(path)!r} holds no policy; begin one with `onstream es init POLICY.py {path}`"
        )
    return log, newest


# What ties rewards that are logged already to their noise.
_TIED = ("sigma", "seed", "noise_size")


def _changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> Strategy:
    for name in changes:
        if name not in settings or name in _TIED:
            allowed = [known for known in settings if known not in _TIED]
            raise JobError(f"a policy that learns can change {', '.join(allowed)}; got {name!r}")
    return Strategy(**{**settings, **changes})

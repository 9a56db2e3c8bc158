"""All tables of a job, in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from onstream.contracts import Delta, Keys, Rows, State, TableSpec
from onstream.core import Plan
from onstream.errors import CheckpointError
from onstream.tables.optimizers import Adagrad
from onstream.tables.policies import Expire, SeenTimes, Uniform
from onstream.tables.table import Table

__all__ = ["TableGroup"]

# A name that no table has: tables are named by features, which have no dots.
_CANDIDATES = ".candidates"


class TableGroup:
    """The tables of a layout: one pull and one push a batch, one cut a checkpoint.

    Parameters
    ----------
    specs : sequence of TableSpec
    seed : int
    threads : int, optional
    learn : bool
        Without it, the tables are only read: rows are loaded without what their optimizer remembers, and policies
        need no more than their description.
    """

    def __init__(
        self,
        specs: Sequence[TableSpec],
        *,
        seed: int = 0,
        threads: int | None = None,
        learn: bool = True,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._make = partial(_make if learn else _make_read_only, seed=seed, threads=threads)
        self._tables = {spec.name: self._make(spec) for spec in specs}
        self._learn = learn
        self._rows = _Rooms()

    def __getitem__(self, name: str) -> Table:
        """Return one table."""
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the tables' names."""
        return iter(self._tables)

    def __len__(self) -> int:
        """Return the number of tables."""
        return len(self._tables)

    def num_rows(self) -> dict[str, int]:
        """Return the number of rows of each table."""
        return {name: len(table) for name, table in self._tables.items()}

    def plan(self, keys: Mapping[str, Keys]) -> dict[str, Plan]:
        """Work out ahead what a pull and a push need to know of a batch's keys; any thread may do so at any time."""
        return {name: Plan(keys[name]) for name in self._tables}

    def pull(
        self,
        keys: Mapping[str, Keys],
        *,
        now: int,
        learn: bool = True,
        plans: Mapping[str, Plan] = MappingProxyType({}),
    ) -> dict[str, Rows]:
        """Return the rows of a batch's keys; the arrays are valid until the next pull of the same thread.

        Notes
        -----
        The memory is used again: rows of one batch take megabytes, and new pages would cost as much as the
        look-ups.
        """
        pulled = {}
        rooms = self._rows.by_name
        for name, table in self._tables.items():
            n = len(keys[name])
            room = rooms.get(name)
            if room is None or len(room) < n:
                room = rooms[name] = np.empty((n, table.dim), np.float32)
            pulled[name] = table.pull(keys[name], now=now, learn=learn, out=room[:n], plan=plans.get(name))
        return pulled

    def push(
        self,
        keys: Mapping[str, Keys],
        grads: Mapping[str, Rows],
        plans: Mapping[str, Plan] = MappingProxyType({}),
    ) -> None:
        """Apply one gradient step to every table in `grads`."""
        for name, grad in grads.items():
            self._tables[name].push(keys[name], grad, plan=plans.get(name))

    def cut(self) -> dict[str, Delta]:
        """Return what changed since the last cut, by name of its chain in the checkpoint."""
        deltas = {}
        for name, table in self._tables.items():
            deltas[name] = table.cut()
            if _waits(self._specs[name]):
                deltas[name + _CANDIDATES] = table.cut_candidates()
        return deltas

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the facts of every chain, for the checkpoint."""
        facts: dict[str, dict[str, Any]] = {}
        for name, spec in self._specs.items():
            policy = {key: value.describe() if value else None for key, value in spec.policy.items()}
            table = self._tables[name]
            facts[name] = {
                "dim": spec.dim,
                "state_width": table.state_width,
                "features": list(spec.features),
                "policy": policy,
            }
            if _waits(spec):
                facts[name + _CANDIDATES] = {"dim": 0, "state_width": 0, "features": list(spec.features)}
        return facts

    def sources(self, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
        """Tell which stored chains hold the rows of each chain of this group, by the features they share.

        Parameters
        ----------
        stored : mapping of str to mapping
            What `describe` returned when the checkpoint was written.

        Raises
        ------
        CheckpointError
            If a feature's rows have another width or another kind of optimizer now.
        """
        found: dict[str, list[str]] = {}
        for name, facts in self.describe().items():
            waiting = name.endswith(_CANDIDATES)
            shared = [
                other
                for other, old in stored.items()
                if other.endswith(_CANDIDATES) == waiting and set(old["features"]) & set(facts["features"])
            ]
            for other in shared:
                old = stored[other]
                if _shape(old) == _shape(facts):
                    continue
                names = sorted(set(old["features"]) & set(facts["features"]))
                raise CheckpointError(
                    f"table {other!r} of the checkpoint has rows of {_told(old)}, table {name!r} of the job of "
                    f"{_told(facts)}; keep dim and optimizer of {names} as they were, or give the features new "
                    f"names to learn them anew"
                )
            found[name] = shared
        return found

    def load(self, chain: str, deltas: Iterable[Delta]) -> None:
        """Put rows of a chain back, in the order in which `cut` gave them."""
        for delta in deltas:
            if chain.endswith(_CANDIDATES):
                self._tables[chain.removesuffix(_CANDIDATES)].load_candidates(delta)
            elif self._learn:
                self._tables[chain].load(delta)
            else:
                self._tables[chain].load(replace(delta, state=delta.state[:, :0]))

    def put(self, name: str, keys: Keys, weights: Rows, *, now: int) -> None:
        """Put in rows that were learned elsewhere; they belong to the next cut.

        Parameters
        ----------
        name : str
            Of the table.
        keys : ndarray of uint64, shape (n,)
            Each once.
        weights : ndarray of float32, shape (n, dim)
        now : int
            Event time at which they count as seen, seconds since 1970.

        Notes
        -----
        They are as if admitted and never moved: the state of the optimizer is that of rows which begin so.
        """
        admission = self._specs[name].policy.get("admission")
        times = admission.times if isinstance(admission, SeenTimes) else 1
        self._tables[name].put(keys, weights, seen=now, count=times)

    def clear(self, name: str) -> None:
        """Begin a table anew, without rows."""
        self._tables[name] = self._make(self._specs[name])

    def adopt(self, chain: str, deltas: Iterable[Delta]) -> None:
        """Put in rows of a chain of another name; they belong to the next cut.

        Where two chains have a row of one key, as after a feature went from one table to another and back, the
        newer one counts.
        """
        name = chain.removesuffix(_CANDIDATES)
        table = self._tables[name]
        # Deletions of a chain are about its own rows alone, so they are applied before it meets others.
        alone = _make(self._specs[name], seed=0, threads=None)
        if chain == name:
            for delta in deltas:
                alone.load(delta)
            table.load(alone.rows(), touched=True, newer_only=True)
        else:
            for delta in deltas:
                alone.load_candidates(delta)
            table.load_candidates(alone.candidates(), touched=True, newer_only=True)

    def state(self) -> State:
        """Return what admission remembers beside rows and waiting ids."""
        arrays = {}
        for name, table in self._tables.items():
            for part, array in table.state().arrays.items():
                arrays[f"{name}/{part}"] = array
        return State(arrays)

    def load_state(self, state: State) -> None:
        """Go on from what `state` returned; a table that was not there then begins anew."""
        for name, table in self._tables.items():
            own = {part: state.arrays.get(f"{name}/{part}") for part in table.state().arrays}
            arrays = {part: array for part, array in own.items() if array is not None}
            fits = all(
                part in arrays and len(arrays[part]) == len(array)
                for part, array in table.state().arrays.items()
            )
            if fits:
                table.load_state(State(arrays))


class _Rooms(threading.local):
    """Memory for the rows of one batch, by table; every thread has its own."""

    def __init__(self) -> None:
        self.by_name: dict[str, Rows] = {}


def _make(spec: TableSpec, *, seed: int, threads: int | None) -> Table:
    policy: dict[str, Any] = {key: value for key, value in spec.policy.items() if value is not None}
    return Table(
        spec.dim,
        optimizer=policy.get("optimizer", Adagrad()),
        initial=policy.get("initial", Uniform()),
        admission=policy.get("admission"),
        expiry=policy.get("expiry"),
        seed=seed,
        threads=threads,
    )


def _make_read_only(spec: TableSpec, *, seed: int, threads: int | None) -> Table:
    expiry = spec.policy.get("expiry")
    policy: dict[str, Any] = {
        "optimizer": None,
        "initial": spec.policy.get("initial") or Uniform(),
        "expiry": Expire(expiry.describe()["ttl_s"]) if expiry else None,
    }
    return Table(spec.dim, **policy, seed=seed, threads=threads)


def _waits(spec: TableSpec) -> bool:
    admission = spec.policy.get("admission")
    return admission is not None and admission.describe()["kind"] == "seen"


def _shape(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what must stay for rows to be gone on with."""
    return facts["dim"], facts["state_width"], _optimizer(facts)


def _optimizer(facts: Mapping[str, Any]) -> Any:
    """Return the kind of optimizer of a table, slice by slice; None for waiting ids, which have none."""
    described = (facts.get("policy") or {}).get("optimizer") or {}
    return [p["kind"] for p in described["parts"]] if "parts" in described else described.get("kind")


def _told(facts: Mapping[str, Any]) -> str:
    return f"dim {facts['dim']} and optimizer {_optimizer(facts)!r} ({facts['state_width']} floats of state)"

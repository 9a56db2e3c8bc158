"""What the tests of the join share: inputs whose rows come as a test says, and a join of dicts to compare with."""

import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.contracts import Chunk, Positions, State
from onstream.feedback import Wait
from onstream.streams import Feedback, Join

LABELS = Wait(measured=0)


class Still:
    """A clock that stands where it is put."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, seconds: float, stop: threading.Event) -> None:
        self.now += seconds


@dataclass
class Replay:
    """Rows by partition, given in chunks whose sizes and order of partitions are drawn from a seed."""

    partitions: dict[str, list[dict[str, Any]]]
    types: Mapping[str, pa.DataType]
    seed: int = 0
    most: int = 5
    live: bool = False

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        draw = random.Random(self.seed + sum(positions.values()))
        here = {name: positions.get(name, 0) for name in self.partitions}
        schema = pa.schema(list(self.types.items()))
        while left := [name for name, rows in self.partitions.items() if here[name] < len(rows)]:
            name = draw.choice(left)
            rows = self.partitions[name][here[name] :][: min(max_rows, draw.randint(1, self.most))]
            here[name] += len(rows)
            yield Chunk(pa.RecordBatch.from_pylist(rows, schema), name, here[name])

    def expected_partitions(self) -> list[str]:
        return list(self.partitions)

    def behind(self, positions: Positions) -> tuple[int, str]:
        return sum(len(rows) - positions.get(name, 0) for name, rows in self.partitions.items()), "rows"

    def schema(self) -> pa.Schema:
        return pa.schema(list(self.types.items()))


@dataclass
class Crash:
    """Where a reading was broken off: what a checkpoint would hold."""

    positions: Positions
    states: dict[str, State] = field(default_factory=dict)


def stored(states: Mapping[str, State]) -> dict[str, State]:
    """Return states as a checkpoint gives them back: copies, and JSON values."""
    import json

    return {
        name: State({k: np.array(a) for k, a in state.arrays.items()}, json.loads(json.dumps(state.facts)))
        for name, state in states.items()
    }


def rows_until(join: Join, crash: Crash, rows: int | None, max_rows: int) -> tuple[list[dict], Crash | None]:
    """Read until some rows have come, also in the middle of a chunk; return them and where reading stopped."""
    if crash.states:
        join.load(crash.states)
    reading = join.read(crash.positions, max_rows=max_rows, stop=threading.Event())
    given: list[dict] = []
    for chunk in reading:
        part = chunk.batch.to_pylist()
        at = chunk.next - len(part)
        if rows is not None and len(given) + len(part) >= rows:
            part = part[: rows - len(given)]
            given += part
            reading.close()
            return given, Crash({"join": at + len(part)}, stored(chunk.state.states()))
        given += part
    return given, None


def all_rows(join: Join, max_rows: int = 16) -> list[dict]:
    return rows_until(join, Crash({}), None, max_rows)[0]


def model(
    impressions: list[dict], feedback: Mapping[str, list[dict]], rules: list[Feedback], lateness: float
) -> dict[int, dict]:
    """Join as a dict would: every impression once, with all feedback of its key that lies in the window."""
    joined: dict[int, dict] = {}
    for row in impressions:
        if row["id"] in joined:
            continue
        made = dict(row)
        for rule in rules:
            found = sorted(
                (f["at"], f["value"])
                for f in feedback[rule.label]
                if f["id"] == row["id"] and -lateness <= f["at"] - row["at"] <= rule.window
            )
            values = [value for _, value in found]
            if rule.value is None:
                made[rule.label] = int(bool(values))
            elif not values:
                made[rule.label] = rule.default
            else:
                made[rule.label] = {
                    "first": values[0],
                    "last": values[-1],
                    "max": max(values),
                    "sum": sum(values),
                }[rule.choose]
        joined[row["id"]] = made
    return joined

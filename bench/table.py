"""The embedding table: pull plus push beside PyTorch and FBGEMM, bytes a row, and time an id as it grows.

Run it: python -m bench.table
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np

from bench.common import Figure, compare, rate
from bench.data import dense, keys, zipf_ids
from bench.memory import resident_bytes
from bench.peers import fbgemm_table, torch_table
from onstream.tables import Adagrad, RowwiseAdagrad, Table

BATCH_ROWS = 4096
COLUMNS = 39
BATCHES = 48
IDS = BATCH_ROWS * COLUMNS
MILLION = 1_000_000


def pull_push(batches: list[np.ndarray], optimizer: Adagrad | RowwiseAdagrad) -> Callable[[], None]:
    """Return one step of work: the rows of the next batch, and one gradient for each of its ids."""
    table = Table(16, optimizer=optimizer, threads=2)
    ready = itertools.cycle([keys(batch).ravel() for batch in batches])
    grads = np.random.default_rng(0).standard_normal((IDS, 16)).astype(np.float32)
    rows = np.empty((IDS, 16), np.float32)

    def step() -> None:
        batch = next(ready)
        table.pull(batch, out=rows)
        table.push(batch, grads)

    return step


def speed() -> None:
    ids = zipf_ids(BATCH_ROWS * BATCHES, COLUMNS)
    rows, num_rows = dense(ids)
    ours, numbered = np.split(ids, BATCHES), np.split(rows, BATCHES)
    figure = f"pull and push of {BATCH_ROWS} x {COLUMNS} ids, dim 16, Adagrad"
    adagrad = rate(pull_push(ours, Adagrad()), IDS, repeats=8)
    peers = (
        ("PyTorch, sparse embedding", torch_table.pull_push(numbered, num_rows), ">= 4"),
        ("FBGEMM on the CPU, unpooled", fbgemm_table.pull_push(numbered, num_rows, pooled=False), ">= 8"),
        ("FBGEMM on the CPU, bags of one id", fbgemm_table.pull_push(numbered, num_rows), ">= 8"),
    )
    # Every batch once before the clock starts: the peers' tables are full from the beginning.
    for _ in range(BATCHES // 8):
        adagrad()
    reached = []
    for name, peer, goal in peers:
        found = compare(adagrad, rate(peer, IDS, repeats=2))
        reached.append(found.ours)
        Figure(figure, found.ours, "ids/s", name, found.peer, found.ratio, goal).report()
    Figure(figure, max(reached), "ids/s", goal=f">= {30 * MILLION}").report()


def growth() -> None:
    """Grow one table to 20 million rows; look at its memory at 10 million and at its speed all the way."""
    before = resident_bytes()
    table = Table(16, optimizer=RowwiseAdagrad(), threads=2)
    random = np.random.default_rng(0)
    seconds: dict[int, float] = {}
    for millions in range(1, 21):
        fresh = np.arange((millions - 1) * MILLION + 1, millions * MILLION + 1, dtype=np.uint64)
        # In pulls of the usual size, whose working memory is that of training.
        for batch in np.array_split(fresh, 8):
            table.pull(batch)
        if millions == 10:
            grown = resident_bytes() - before
            Figure(
                "memory of 10 million rows, dim 16, row-wise Adagrad",
                grown / len(table),
                "bytes/row",
                goal="<= 110",
            ).report()
        if millions in (1, 2, 5, 10, 20):
            seconds[millions] = seconds_per_id(table, random)
    for millions, value in seconds.items():
        Figure(f"pull and push of uniform ids at {millions} million rows", 1e9 * value, "ns/id").report()
    flatness = max(seconds.values()) / min(seconds.values())
    Figure("slowest over fastest from 1 to 20 million rows", flatness, "ratio", goal="<= 1.6").report()


def seconds_per_id(table: Table, random: np.random.Generator) -> float:
    """Return the time of one pull and push, an id, over ids that are all equally likely: the worst for caches."""
    grads = np.full((IDS, 16), 0.01, np.float32)
    rows = np.empty((IDS, 16), np.float32)
    times = []
    for _ in range(40):
        batch = random.integers(1, len(table) + 1, IDS).astype(np.uint64)
        begin = time.perf_counter()
        table.pull(batch, out=rows)
        table.push(batch, grads)
        times.append((time.perf_counter() - begin) / IDS)
    return statistics.median(times)


if __name__ == "__main__":
    speed()
    growth()

"""Checkpoints: what one every second costs, how long learning stands still, how fast a table is back, and memory.

Checkpoints hold no exported network: that is made once a run, and costs no later checkpoint anything.

Run it: python -m bench.checkpoint
"""

from __future__ import annotations

import os

# As the command does. onstream is compared with itself here, so it favours nobody.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from bench.common import Figure, compare
from bench.data import COLUMNS, criteo_file
from bench.deepfm import BATCH_ROWS, DeepFM
from bench.memory import anonymous_bytes
from onstream import Adagrad, Files, Id, Job, Label, RowwiseAdagrad, Torch
from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from onstream.tables import Table
from onstream.trainer import Progress

ROWS = 1_000_000
ROUNDS = 3
MILLION = 1_000_000


class Watcher:
    """Keep the longest pause that a run showed, and the size of its tables."""

    def __init__(self) -> None:
        self.table_bytes = 0
        self.pause_s = 0.0
        self.seen = threading.Event()

    def progress(self, progress: Progress) -> None:
        self.seen.set()
        self.table_bytes = sum(progress.table_bytes.values())
        self.pause_s = max(self.pause_s, progress.longest_pause_s)

    def note(self, text: str) -> None:
        pass


@contextmanager
def most_memory() -> Iterator[list[int]]:
    """Watch the memory of this process, a hundred times a second; gives the most that was added, in bytes."""
    before, most, done = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            most[0] = max(most[0], anonymous_bytes() - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def job(directory: str, every_s: float) -> Job:
    """Return a DeepFM on a million examples with a checkpoint every `every_s` seconds."""
    return Job(
        Files(criteo_file("arrow", ROWS)),
        [*(Id(name) for name in COLUMNS), Label("label")],
        Torch(DeepFM, optimizer="adagrad", lr=0.01, precision="bf16", servable=False),
        directory,
        batch_size=BATCH_ROWS,
        checkpoint_every_s=every_s,
        report_every_s=0.25,
    )


def cost() -> None:
    def speed(every_s: float, watcher: Watcher | None = None) -> float:
        with tempfile.TemporaryDirectory() as directory:
            summary = job(directory, every_s).train(watcher)
        return summary.learned / summary.seconds

    watcher = Watcher()
    found = compare(lambda: speed(1, watcher), lambda: speed(3600), rounds=ROUNDS, warmup=1)
    figure = "DeepFM in bf16 with a checkpoint every second"
    Figure(figure, found.ours, "examples/s", "without", found.peer, found.ratio, ">= 0.95").report()
    Figure("longest pause of learning for a checkpoint", 1e3 * watcher.pause_s, "ms", goal="<= 50").report()


def memory() -> None:
    """Go on from a checkpoint of ten million rows, with one every second, and look at the memory all the while.

    The checkpoint is made by another process, so that nothing of its making counts as there already.
    """
    with tempfile.TemporaryDirectory() as directory:
        maker = multiprocessing.get_context("spawn").Process(target=enlarge, args=(directory,))
        maker.start()
        maker.join()
        watcher = Watcher()
        with most_memory() as most:
            job(directory, 1).train(watcher)
    Figure("table of ten million rows and more", watcher.table_bytes / 1e6, "MB").report()
    ratio = most[0] / watcher.table_bytes
    figure = "memory added by restoring and training, without pages of files, by the bytes of the table"
    Figure(figure, ratio, "ratio", goal="<= 1.3").report()


def enlarge(directory: str) -> None:
    """Begin the job, and give its checkpoint ten million more rows."""
    watcher = Watcher()
    job(directory, 1).train(watcher, stop=watcher.seen)
    table = Table(16, optimizer=Adagrad())
    for first in range(1, 10 * MILLION, 500_000):
        table.pull(np.arange(first, first + 500_000, dtype=np.uint64))
    with CheckpointLog(LocalStore(directory)) as log:
        manifest = log.restore()
        assert manifest is not None
        states = {name: log.states(manifest, name) for name in manifest.states}
        [name] = manifest.tables
        log.commit(Snapshot({name: table.cut()}, states, manifest.positions, manifest.facts))


def restart() -> None:
    """Write a table of ten million rows as training does, and put it back."""
    with tempfile.TemporaryDirectory() as directory:
        with CheckpointLog(LocalStore(directory)) as log:
            table = Table(16, optimizer=RowwiseAdagrad())
            for first in range(1, 10 * MILLION, 500_000):
                table.pull(np.arange(first, first + 500_000, dtype=np.uint64))
            log.commit(Snapshot(tables={"t": table.cut()}))
            del table
        begin = time.perf_counter()
        with CheckpointLog(LocalStore(directory)) as log:
            manifest = log.restore()
            assert manifest is not None
            back = Table(16, optimizer=RowwiseAdagrad())
            for delta in log.rows(manifest, "t", verify=False):
                back.load(delta)
        seconds = time.perf_counter() - begin
        assert len(back) == 10 * MILLION
    Figure("10 million rows of dim 16 checked and back in a table", seconds, "s", goal="<= 5").report()


if __name__ == "__main__":
    restart()
    memory()
    cost()

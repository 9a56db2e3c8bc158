"""Checkpoints: what one every second costs, how long learning stands still, how fast a table is back, and memory.

Run it: python -m bench.checkpoint
"""

from __future__ import annotations

import os

# As the command does; see `bench/README.md`.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import tempfile
import threading
import time

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
    """Keep the longest pause and the most memory that a run showed."""

    def __init__(self) -> None:
        self.before = anonymous_bytes()
        self.most = 0
        self.table_bytes = 0
        self.pause_s = 0.0
        self.seen = threading.Event()

    def progress(self, progress: Progress) -> None:
        self.seen.set()
        self.most = max(self.most, anonymous_bytes() - self.before)
        self.table_bytes = sum(progress.table_bytes.values())
        self.pause_s = max(self.pause_s, progress.longest_pause_s)

    def note(self, text: str) -> None:
        pass


def job(directory: str, every_s: float) -> Job:
    """Return a DeepFM on a million examples with a checkpoint every `every_s` seconds."""
    return Job(
        Files(criteo_file("arrow", ROWS)),
        [*(Id(name) for name in COLUMNS), Label("label")],
        Torch(DeepFM, optimizer="adagrad", lr=0.01, precision="bf16"),
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
    """Go on from a checkpoint of ten million rows, with one every second, and look at the memory all the while."""
    with tempfile.TemporaryDirectory() as directory:
        enlarge(directory)
        watcher = Watcher()
        job(directory, 1).train(watcher)
    Figure("table of ten million rows and more", watcher.table_bytes / 1e6, "MB").report()
    ratio = watcher.most / watcher.table_bytes
    Figure("memory added by training, by the bytes of the table", ratio, "ratio", goal="<= 1.3").report()


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

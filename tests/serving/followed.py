"""A model that is trained bit by bit, and what its trainer predicts at each version."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from onstream import Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Predictions
from tests.jobs.small import small_job
from tests.jobs.watch import EVERY_BATCH_S, run


class Tiny(nn.Module):
    """Quick to export."""

    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(1)

    def forward(self, x):
        return self.last(torch.cat([x.stack().flatten(1), x.numbers()], 1))


class Heads(nn.Module):
    """One output a label."""

    def __init__(self, labels):
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.LazyLinear(1) for name in labels})

    def forward(self, x):
        row = torch.cat([x.stack().flatten(1), x.numbers()], 1)
        return {name: head(row) for name, head in self.heads.items()}


def tiny_job(source, directory, **options):
    """The small job, one checkpoint a run."""
    settings = {"checkpoint_every_s": 1e9, "report_every_s": EVERY_BATCH_S, "keep": 100}
    return small_job(source, directory, **settings | options).replace({"learner": Torch(Tiny, lr=0.05)})


class Trained:
    """A directory of checkpoints, and the predictions of the trainer at each version."""

    def __init__(self, source: Path, directory: Path, job=tiny_job, **options):
        self.source = source
        self.directory = directory
        self.rows = some_rows(source)
        self.at: dict[int, Predictions] = {}
        self._job = lambda: job(source, directory, **options)

    @property
    def log(self) -> CheckpointLog:
        return CheckpointLog(LocalStore(self.directory), keep=100)

    def train(self, batches: int) -> int:
        """Learn some more batches; return the newest version."""
        run(self._job(), reports=batches)
        return self.note()

    def note(self) -> int:
        """Keep what the trainer predicts when it goes on from the newest version."""
        version = self.log.versions()[-1]
        if version not in self.at:
            stop = threading.Event()
            stop.set()
            trainer = self._job().trainer()
            assert trainer.run(stop).resumed_from == version
            self.at[version] = trainer.predict(self.rows)
        return version

    def compact(self) -> int:
        with self.log as log:
            log.compact(log.restore(), full=True)
            log.recommit()
        return self.note()

    def roll_back(self, version: int) -> int:
        with self.log as log:
            log.rollback(version)
        return self.note()


def some_rows(source: Path) -> pa.RecordBatch:
    """Rows of all days, and of ids that nobody has seen."""
    table = pq.read_table(source)
    known = table.take(pa.array(range(0, table.num_rows, max(1, table.num_rows // 200))))
    strange = {
        "day": [0],
        "user": ["nobody"],
        "item": [10**9],
        "tags": [[77, 78]],
        "price": [1.5],
        "click": [0],
    }
    every = pa.concat_tables([known, pa.table(strange, schema=table.schema)])
    return every.combine_chunks().to_batches()[0]


def equal(one: Predictions, other: Predictions) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


def settle(replica) -> bool:
    """Poll until nothing is new; return whether anything was."""
    swapped = False
    while replica.poll():
        swapped = True
    return swapped


def predicted(replica, rows):
    with replica.reading() as version:
        return version.version, version.predict(rows)


def answers_as_trained(replica, trained, version) -> bool:
    number, found = predicted(replica, trained.rows)
    return number == version and equal(found, trained.at[version])

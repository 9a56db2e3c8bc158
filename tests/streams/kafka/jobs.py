"""A job over topics, whose checkpoint tells how often each id was learned."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onstream.checkpoints import CheckpointLog, LocalStore

JOB = """
import sys
sys.path.insert(0, {root!r})
from onstream import Id, Job, Kafka, Label, Torch
from onstream.streams.formats import Csv, Json
from tests.jobs.networks import Sum

job = Job(
    Kafka({topic!r}, {kafka}),
    [Id("id", dim=1), Label("click")],
    Torch(Sum),
    {directory!r},
    **{options!r},
)
"""

TYPES = {"id": "int64", "click": "int8"}


def write_job(path: Path, topic: Any, kafka: str, **options: Any) -> Path:
    """Write a job file; its model directory is beside it."""
    often = {"batch_size": 64, "checkpoint_every_s": 0.05, "max_wait_s": 0.05, "report_every_s": 1e-6}
    text = JOB.format(
        root=str(Path(__file__).parents[3]),
        topic=topic,
        kafka=kafka,
        directory=str(path.with_suffix("")),
        options=often | options,
    )
    path.write_text(text)
    return path


def messages(first: int, end: int) -> list[bytes]:
    return [b'{"id": %d, "click": %d}' % (i, i % 3 == 0) for i in range(first, end)]


def run_until(job: Path, lines: int | None) -> int:
    """Run a job; SIGKILL it once so many lines and a version are there, or let it end. Returns how it ended."""
    log = CheckpointLog(LocalStore(job.with_suffix("")))
    with running(job) as process:
        assert process.stdout is not None
        for done, _ in enumerate(process.stdout, 1):
            if lines is not None and done >= lines and log.versions():
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    return process.returncode


@contextlib.contextmanager
def running(job: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a job, which prints a line after every batch."""
    command = [sys.executable, "-m", "onstream", "train", str(job), "--every", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def sights(*directories: Path) -> Counter[int]:
    """Return how many ids were learned how often, by the models in some directories together."""
    seen: Counter[int] = Counter()
    for directory in directories:
        log = CheckpointLog(LocalStore(directory))
        newest = log.newest()
        if newest is None:
            continue
        for table in newest.tables:
            for delta in log.rows(newest, table):
                for key, count in zip(delta.keys.tolist(), delta.count.tolist(), strict=True):
                    # A delta tells how often a row was seen in all, so a later one counts in place of an earlier.
                    seen[key, str(directory)] = count  # type: ignore[index]
    total: Counter[int] = Counter()
    for (key, _), count in seen.items():  # type: ignore[misc]
        total[key] += count
    return Counter(total.values())

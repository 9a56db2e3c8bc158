"""A job that is killed goes on from its newest checkpoint, to the bit."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.small import write_clicks, write_job
from tests.jobs.stored import differences, model


def run_until(job: Path, batches: int | None) -> bool:
    """Run a job; SIGKILL it after so many batches, or let it end. Returns whether it ended by itself."""
    # With reports due at once, the command prints a line after every batch, which a killer can count.
    command = [sys.executable, "-m", "onstream", "train", str(job), "--every", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for done, _ in enumerate(process.stdout, 1):
            if done == batches:
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
    if process.returncode == 0:
        return True
    assert process.returncode == -signal.SIGKILL
    return False


def kill_often(tmp_path: Path, kills: int, rows: int) -> list[str]:
    source = write_clicks(tmp_path / "clicks.parquet", rows)
    run_until(write_job(tmp_path / "whole.py", source, tmp_path / "whole"), None)
    job = write_job(tmp_path / "killed.py", source, tmp_path / "killed", report_every_s=1e-6)
    draw = random.Random(7)
    # The first line tells of the checkpoint that a run goes on from, so a kill may hit a run that only begins.
    # All kills together fall short of the end of the stream, so every run is there to be killed.
    ended = [run_until(job, draw.randint(1, rows // 64 // kills)) for _ in range(kills)]
    assert ended == [False] * kills
    run_until(job, None)
    return differences(model(tmp_path / "whole"), model(tmp_path / "killed"))


def test_a_job_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    assert kill_often(tmp_path, kills=3, rows=1_500) == []


@pytest.mark.long
def test_a_job_killed_at_fifty_random_moments_ends_with_the_same_bits(tmp_path):
    assert kill_often(tmp_path, kills=50, rows=24_000) == []

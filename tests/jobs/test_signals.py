"""A job in a process of its own that is asked to stop, and one that follows a log."""

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pyarrow as pa
import pytest

from onstream import Id, Job, Label, Log, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from tests.jobs.networks import Sum
from tests.jobs.small import small_job, write_clicks, write_job
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, Watch, run

ROWS = 6_400

LOG_JOB = """
import sys
sys.path.insert(0, {root!r})
from tests.jobs.test_signals import log_job
job = log_job({log!r}, {directory!r})
"""


@contextmanager
def training(job):
    """Run a job in a process of its own, which prints a line for every report."""
    command = [sys.executable, "-m", "onstream", "train", str(job), "--every", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_batch_and_the_next_run_goes_on_to_the_same_bits(tmp_path, number, code):
    source = write_clicks(tmp_path / "clicks.parquet", ROWS)
    run(small_job(source, tmp_path / "whole"))
    job = write_job(tmp_path / "job.py", source, tmp_path / "model", report_every_s=EVERY_BATCH_S)
    with training(job) as process:
        while not process.stdout.readline().startswith("examples="):
            assert process.poll() is None
        process.send_signal(number)
        said, complaints = process.communicate()
    assert (process.returncode, complaints) == (code, "")
    manifest = CheckpointLog(LocalStore(tmp_path / "model")).newest(verify=True)
    learned, rejected = manifest.facts["examples"], manifest.facts["rejected"]
    assert 0 < learned + rejected < ROWS
    assert (learned + rejected) % 64 == 0
    assert (
        f"stopped: {learned:,} examples learned now, {learned:,} in all; "
        f"checkpoint {manifest.version} in {tmp_path / 'model'} holds them\n"
    ) in said
    run(small_job(source, tmp_path / "model"))
    assert differences(model(tmp_path / "whole"), model(tmp_path / "model")) == []


# ----------------------------------------------------------------------------------------- live logs


def log_job(path, directory, **options) -> Job:
    settings = {"batch_size": 1_000, "max_wait_s": 0.01, "report_every_s": 0.01, "checkpoint_every_s": 0.01}
    features = [Id("user", dim=1), Label("click")]
    return Job(Log(path), features, Torch(Sum), directory, **settings | options)


def clicks(first, count):
    users = range(first, first + count)
    return pa.record_batch({"user": list(users), "click": [user % 2 for user in users]})


def test_a_job_learns_rows_as_they_are_appended_and_stops_when_asked_though_the_log_is_silent(tmp_path):
    log = Log(tmp_path / "clicks.db")
    job = tmp_path / "job.py"
    root = __file__.rsplit("/tests/", 1)[0]
    job.write_text(LOG_JOB.format(root=root, log=str(log.path), directory=str(tmp_path / "model")))
    with training(job) as process:
        for count in (10, 7, 3):
            log.append(clicks(log.end, count))
            while f"examples={log.end} " not in process.stdout.readline():
                assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said, complaints = process.communicate()
    assert (process.returncode, complaints) == (0, "")
    assert f"stopped: {log.end} examples learned now" in said
    manifest = CheckpointLog(LocalStore(tmp_path / "model")).newest()
    assert manifest.positions == {"log": log.end}


def test_a_row_waits_no_longer_than_max_wait_s_for_its_batch_to_fill(tmp_path):
    Log(tmp_path / "clicks.db").append(clicks(0, 10))
    patient = log_job(tmp_path / "clicks.db", tmp_path / "patient", max_wait_s=1e12)
    assert run(patient, reports=5).seen[4].examples == 0
    hasty = log_job(tmp_path / "clicks.db", tmp_path / "hasty", max_wait_s=0.01)
    assert run(hasty, until=lambda progress: progress.examples == 10).summary.learned == 10


def test_what_was_learned_is_checkpointed_and_reported_while_the_stream_is_silent(tmp_path):
    Log(tmp_path / "clicks.db").append(clicks(0, 10))
    job = log_job(tmp_path / "clicks.db", tmp_path / "model", checkpoint_every_s=0.2)
    watch = run(job, until=lambda progress: progress.version is not None)
    assert watch.seen[-1].examples == 10
    assert any(progress.examples_per_s == 0 for progress in watch.seen)
    assert watch.summary.progress.version == 1


def test_a_silent_stream_of_which_nothing_was_learned_makes_no_versions(tmp_path):
    Log(tmp_path / "clicks.db").append(clicks(0, 10))
    job = log_job(tmp_path / "clicks.db", tmp_path / "model", report_every_s=EVERY_BATCH_S)
    first = run(job, until=lambda progress: progress.version is not None)
    again = run(job, reports=10)
    assert again.summary.progress.version == first.summary.progress.version


def test_a_job_in_a_thread_leaves_signals_alone_and_stops_by_its_event(tmp_path):
    source = write_clicks(tmp_path / "clicks.parquet", 640)
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    watch = Watch(reports=3)
    job = small_job(source, tmp_path / "model", report_every_s=EVERY_BATCH_S)
    thread = threading.Thread(target=lambda: watch.seen.append(job.train(watch, stop=watch.stop)))
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert watch.seen[-1].stopped

"""Publishing, rolling back, pausing and resuming from the command line, also while a job runs."""

from pathlib import Path

from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from tests.jobs.small import write_clicks, write_job
from tests.jobs.test_guard import QUIET, stream
from tests.jobs.test_signals import training
from tests.jobs.watch import EVERY_BATCH_S

ROOT = Path(__file__).parents[2]

GUARDED = """
import sys
sys.path.insert(0, {root!r})
from tests.jobs.test_guard import guarded
job = guarded({source!r}, {directory!r})
"""


def test_the_gate_is_set_from_the_command_line(onstream, tmp_path):
    source = write_clicks(tmp_path / "clicks.parquet")
    job = write_job(tmp_path / "job.py", source, tmp_path / "model", expires=False)
    changes = ["--set", "publish=live", "--set", "gate=auc >= 0.4, log_loss < 5", "--every", "0"]
    out = onstream.fine("train", job, *changes, "--set", "report_every_s=1e-6")
    newest = CheckpointLog(LocalStore(tmp_path / "model")).newest().version
    assert CheckpointLog(LocalStore(tmp_path / "model")).tags() == {"live": newest}
    first = next(line for line in out.splitlines() if line.startswith("examples="))
    assert " live=- publishing=waiting" in first
    assert f" live={newest} publishing=open" in out.splitlines()[-3]
    assert onstream.refused("train", job, "--set", "publish=live", "--set", "gate=auc")


def test_a_rollback_while_the_job_runs_in_another_process_holds_until_it_is_released(onstream, tmp_path):
    model = tmp_path / "model"
    options = {"publish": "production", "report_every_s": EVERY_BATCH_S, "checkpoint_every_s": 0.01}
    job = write_job(tmp_path / "job.py", write_clicks(tmp_path / "clicks.parquet", 100_000), model, **options)
    with training(job) as process:
        lines = iter(process.stdout.readline, "")
        next(line for line in lines if " production=3 " in line)
        out = onstream.fine("rollback", model)
        version = int(out.split()[3])
        assert out.startswith(f"production is version {version} and held there; `onstream release ")
        next(line for line in lines if f" production={version} publishing=held" in line)
        assert "is being written by another job" in onstream.refused(
            "checkpoints", "rollback", model, str(version), code=1
        )
        log = CheckpointLog(LocalStore(model))
        assert log.newest("production").version == version < log.newest().version
        onstream.fine("release", model)
        next(line for line in lines if " publishing=open" in line)
        assert log.tags()["production"] > version
    tags = onstream.fine("checkpoints", "tags", model)
    assert len(tags.splitlines()) > 2


def test_a_job_that_is_killed_and_stopped_while_paused_stays_paused_until_it_is_resumed(onstream, tmp_path):
    model = tmp_path / "model"
    source = stream(tmp_path / "clicks.parquet", jump="clicks", rows=QUIET + 640)
    job = tmp_path / "job.py"
    job.write_text(GUARDED.format(root=str(ROOT), source=str(source), directory=str(model)))

    def paused(process):
        line = next(line for line in iter(process.stdout.readline, "") if ' paused="label_rate of ' in line)
        assert "'click' is 0." in line
        return int(line.split()[0].removeprefix("examples="))

    with training(job) as process:
        learned = paused(process)
        assert QUIET < learned < QUIET + 640
        process.kill()
    with training(job) as process:
        assert paused(process) == learned
        assert "paused: label_rate of 'click' is 0." in onstream.fine("checkpoints", "list", model)
        process.terminate()
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert f"stopped: 0 examples learned now, {learned:,} in all" in out
    said = onstream.fine("resume", model)
    assert said.startswith(f"going on after {learned:,} examples; it was paused, for: label_rate of 'click'")
    assert f"the stream ended: {QUIET + 640 - learned:,} examples learned" in onstream.fine("train", job)
    assert onstream.refused("resume", model) == f"onstream: the job of '{model}' is not paused\n"


def test_what_is_not_there_cannot_be_rolled_back_released_or_resumed(onstream, tmp_path):
    for command in ("rollback", "release", "resume"):
        assert "there is no model directory" in onstream.refused(command, tmp_path / "nothing")
        assert "holds no checkpoints" in onstream.refused(command, tmp_path)
    with CheckpointLog(LocalStore(tmp_path / "model")) as log:
        log.commit(Snapshot())
    for command in ("rollback", "release"):
        said = onstream.refused(command, tmp_path / "model", "--tag", "live", code=1)
        assert said == "onstream: there is no tag 'live'; tags are {}\n"


def test_tags_shows_where_each_points_and_pointed_before(onstream, tmp_path):
    clock = iter((60.0, 7260.0, 1e6)).__next__
    with CheckpointLog(LocalStore(tmp_path), keep=1, clock=clock) as log:
        for n in (1, 2, 3):
            log.commit(Snapshot())
            log.publish("production", n)
    onstream.fine("checkpoints", "tag", tmp_path, "good")
    title, good, now, before, first = onstream.fine("checkpoints", "tags", tmp_path).splitlines()
    assert title.split() == ["tag", "version", "since"]
    assert good.split()[:2] == ["good", "3"]
    assert good.split()[-1] == "held"
    assert now.split() == ["production", "3", "1970-01-12", "13:46:40"]
    assert before.split() == ["2", "1970-01-01", "02:01:00"]
    assert first.split() == ["1", "1970-01-01", "00:01:00"]
    with CheckpointLog(LocalStore(tmp_path), keep=1) as log:
        log.restore()
        log.recommit()
    assert onstream.fine("checkpoints", "tags", tmp_path).splitlines()[-1].split()[-1] == "gone"
    out = onstream.fine("rollback", tmp_path)
    assert out.startswith("production is version 2 and held there; ")
    assert f"`onstream release {tmp_path} --tag production`" in out
    assert onstream.fine("rollback", tmp_path, "--to", "good").startswith("production is version 3 ")
    assert onstream.fine("release", tmp_path) == "production is version 3 until the job publishes the next\n"

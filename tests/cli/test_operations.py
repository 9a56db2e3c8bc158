"""Publishing, rolling back, pausing and resuming from the command line, also while a job runs."""

import subprocess
import sys

from onstream.checkpoints import CheckpointLog, LocalStore
from tests.jobs.small import write_clicks, write_job
from tests.jobs.watch import EVERY_BATCH_S


def test_the_gate_is_set_from_the_command_line(onstream, tmp_path):
    source = write_clicks(tmp_path / "clicks.parquet")
    job = write_job(tmp_path / "job.py", source, tmp_path / "model", expires=False)
    changes = ["--set", "publish=live", "--set", "gate=auc >= 0.4, log_loss < 5", "--every", "0"]
    out = onstream.fine("train", job, *changes, "--set", "report_every_s=1e-6")
    newest = CheckpointLog(LocalStore(tmp_path / "model")).newest().version
    assert CheckpointLog(LocalStore(tmp_path / "model")).tags() == {"live": newest}
    assert f" live={newest} publishing=open" in out.splitlines()[-3]
    assert onstream.refused("train", job, "--set", "publish=live", "--set", "gate=auc")


def test_a_rollback_while_the_job_runs_in_another_process_holds_until_it_is_released(onstream, tmp_path):
    model = tmp_path / "model"
    options = {"publish": "production", "report_every_s": EVERY_BATCH_S, "checkpoint_every_s": 0.01}
    job = write_job(tmp_path / "job.py", write_clicks(tmp_path / "clicks.parquet", 100_000), model, **options)
    command = [sys.executable, "-m", "onstream", "train", str(job), "--every", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
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
        finally:
            process.kill()
    tags = onstream.fine("checkpoints", "tags", model)
    assert len(tags.splitlines()) > 2

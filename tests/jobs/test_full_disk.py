"""A disk that takes no more, in a process of its own."""

import resource
import subprocess
import sys

import pytest

from onstream.checkpoints import CheckpointLog, LocalStore
from tests.jobs.small import small_job, write_clicks, write_job
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, run


@pytest.mark.long
def test_a_checkpoint_that_cannot_be_written_is_tried_again_then_ends_the_job_and_the_old_one_is_whole(
    tmp_path,
):
    source = write_clicks(tmp_path / "clicks.parquet", 2_560)
    directory = tmp_path / "model"
    run(small_job(source, directory, report_every_s=EVERY_BATCH_S), reports=10)
    before = model(directory)
    job = write_job(tmp_path / "job.py", source, directory)
    # Python ignores SIGXFSZ, so a file that grows beyond the limit fails to be written as on a full disk.
    limited = subprocess.run(
        [sys.executable, "-m", "onstream", "train", str(job)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, 4_096)),
    )
    assert limited.returncode == 1
    for wait_s in (1, 2, 4):
        assert f"a checkpoint could not be written, next try in {wait_s} s: cannot write 's" in limited.stdout
    [complaint] = limited.stderr.splitlines()
    assert complaint.startswith("onstream: cannot write '")
    assert "no file was changed, make room or check the folder and try again" in complaint
    assert CheckpointLog(LocalStore(directory)).verify() == []
    after = model(directory)
    assert [name for name in differences(before, after) if name != "dead letters"] == []

    run(small_job(source, tmp_path / "whole"))
    run(small_job(source, directory))
    assert differences(model(tmp_path / "whole"), model(directory)) == []


def test_a_directory_that_cannot_be_made_is_told_in_one_sentence(tmp_path):
    source = write_clicks(tmp_path / "clicks.parquet", 64)
    (tmp_path / "model").write_text("a file in the place of a directory")
    with pytest.raises(OSError, match="model") as caught:
        run(small_job(source, tmp_path / "model"))
    assert type(caught.value).__module__ == "onstream.errors"


def test_a_second_job_on_a_directory_is_refused(tmp_path):
    source = write_clicks(tmp_path / "clicks.parquet", 640)
    refused = []

    def again(progress):
        with pytest.raises(OSError, match="is being written by another job") as caught:
            run(small_job(source, tmp_path / "model"))
        refused.append(caught.value)
        return True

    run(small_job(source, tmp_path / "model", report_every_s=EVERY_BATCH_S), until=again)
    assert refused

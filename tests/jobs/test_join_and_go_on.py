"""A job over a join that is killed loses no example and learns none twice: it ends with the same bits."""

import random
from dataclasses import replace

import pytest

from onstream import Id, Log, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import CheckpointError
from onstream.serving.replica import Replica
from tests.jobs.joined_job import Net, joined_job, write_job, write_logs
from tests.jobs.stored import differences, model
from tests.jobs.test_kill_and_go_on import run_until


def what_counts(directory):
    """Return a model without what the stream remembers: rows that wait may be cut in other pieces."""
    return {name: value for name, value in model(directory).items() if "state/stream/" not in name}


def sights(directory):
    """Return how often each request was learned."""
    log = CheckpointLog(LocalStore(directory))
    manifest = log.newest()
    counts = {}
    for delta in log.rows(manifest, "d1-adagrad"):
        counts |= zip(delta.keys.tolist(), delta.count.tolist(), strict=True)
    return list(counts.values())


def kill_often(tmp_path, kills, rows):
    write_logs(tmp_path, rows)
    run_until(write_job(tmp_path / "whole.py", tmp_path, tmp_path / "whole"), None)
    job = write_job(tmp_path / "killed.py", tmp_path, tmp_path / "killed")
    draw = random.Random(7)
    ended = [run_until(job, draw.randint(1, rows // 64 // kills)) for _ in range(kills)]
    assert ended == [False] * kills
    run_until(job, None)
    assert sights(tmp_path / "killed") == [1] * rows
    assert differences(what_counts(tmp_path / "whole"), what_counts(tmp_path / "killed")) == []


def test_a_join_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    kill_often(tmp_path, kills=2, rows=1_700)


def test_a_run_that_learns_nothing_leaves_a_model_that_can_be_served(tmp_path):
    write_logs(tmp_path, 200)
    job = replace(joined_job(tmp_path, tmp_path / "model"), learner=Torch(Net))
    for _ in range(2):
        job.train()
    log = CheckpointLog(LocalStore(tmp_path / "model"))
    # Ends of inputs are seen again, so there is another version, though no example is new.
    first, *_, last = log.versions()
    assert first < last
    replica = Replica(tmp_path / "model")
    replica.poll()
    with replica.reading() as version:
        assert version.version == last


def test_a_run_with_other_features_that_learns_nothing_keeps_no_network_of_the_old_ones(tmp_path):
    write_logs(tmp_path, 200)
    job = replace(joined_job(tmp_path, tmp_path / "model"), learner=Torch(Net))
    job.train()
    replace(job, features=[*job.features[:-1], Id("at", dim=1), job.features[-1]]).train()
    log = CheckpointLog(LocalStore(tmp_path / "model"))
    assert "network" not in log.newest().states


def test_a_checkpoint_of_a_join_is_no_start_for_another_stream(tmp_path):
    write_logs(tmp_path, 200)
    job = joined_job(tmp_path, tmp_path / "model")
    job.train()
    other = replace(job, stream=Log(tmp_path / "shown.db", follow=False))
    with pytest.raises(CheckpointError, match="Log remembers nothing"):
        other.train()


@pytest.mark.long
def test_a_join_killed_at_thirty_random_moments_ends_with_the_same_bits(tmp_path):
    kill_often(tmp_path, kills=30, rows=15_000)

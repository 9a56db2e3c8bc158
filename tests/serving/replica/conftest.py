"""A job that was trained for a while, to be followed."""

import shutil

import pytest

from tests.jobs.small import write_clicks
from tests.serving.followed import Trained


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", 6_400)


@pytest.fixture(scope="session")
def history(source, tmp_path_factory):
    """Three versions, the last of which is at the end of several checkpoints' deletions. Read only."""
    trained = Trained(source, tmp_path_factory.mktemp("history") / "model")
    for batches in (30, 30, 30):
        trained.train(batches)
    return trained


@pytest.fixture
def trained(history, tmp_path):
    """A copy of the history, to be changed."""
    copy = Trained(history.source, tmp_path / "model")
    shutil.copytree(history.directory, copy.directory)
    copy.at = dict(history.at)
    return copy

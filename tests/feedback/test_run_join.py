"""`onstream run` of a join: impressions and feedback are sent to logs of their own, by name."""

import numpy as np
import pyarrow as pa
import pytest

from onstream import Cache, Files, Join, Log, Sample
from onstream.cli.run import _by_file, _log_options, _logs
from onstream.errors import JobError, NotFoundError

from ..cli.test_run import Running

JOB = """
from torch import nn
from onstream import Id, Job, Join, Label, Log, Torch

class Sum(nn.Module):
    def forward(self, x):
        return x.stack().sum((1, 2))

stream = Join(
    Log("shown.db"), Log("clicks.db"), on="id", time="at", label="clicked", window="10s",
    policy="fake_negative_weighted", lateness=0,
)
job = Job(stream, [Id("user"), Label("clicked")], Torch(Sum), "models/clicks", batch_size=8)
"""


def test_impressions_and_feedback_are_sent_to_logs_of_their_own(tmp_path):
    with Running(tmp_path, JOB) as run, run.client() as client:
        with pytest.raises(NotFoundError, match="say which log: there are 2"):
            client.send([{"id": 0, "at": 0.0, "user": 1}])
        shown = [{"id": i, "at": float(i), "user": i % 4} for i in range(400)]
        client.send(shown, to="shown")
        client.send([{"id": row["id"], "at": row["at"] + 0.5} for row in shown[::4]], to="clicks")
        # Event time goes on, so that windows close.
        client.send([{"id": 999, "at": 1000.0, "user": 1}], to="shown")
        client.send([{"id": 999, "at": 1000.0}], to="clicks")
        run.until("clicks is ready")
        # 400 impressions, and 100 of them again with their clicks.
        run.until(r"examples=50\d\b")
        found = client.predict(pa.record_batch({"user": np.arange(4)})).predictions["clicked"]
        assert found.argmax() == 0
        assert run.end() == 130


def test_every_log_of_streams_within_streams_can_be_sent_to(tmp_path):
    shown, clicks = Log(tmp_path / "shown.db"), Log(tmp_path / "clicks.db")
    join = Join(shown, clicks, on="id", label="clicked", window="10s")
    assert [log.path.stem for log in _logs(Cache(Sample(join, "clicked", negatives=0.5)))] == [
        "shown",
        "clicks",
    ]
    assert list(_logs(Files(tmp_path / "clicks.csv"))) == []
    assert _log_options(_by_file(_logs(join))) == [
        *("--log", f"shown={shown.path}"),
        *("--log", f"clicks={clicks.path}"),
    ]


def test_logs_of_one_name_or_of_several_retentions_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    one, other = Log(tmp_path / "clicks.db"), Log(tmp_path / "other" / "clicks.db")
    with pytest.raises(JobError, match="two logs of the job are called 'clicks'"):
        _by_file([one, other])
    kept = Log(tmp_path / "shown.db", retention_rows=5)
    with pytest.raises(JobError, match="needs one retention for all"):
        _log_options({"clicks": one, "shown": kept})
    assert _log_options({"shown": kept})[-2:] == ["--retention-rows", "5"]

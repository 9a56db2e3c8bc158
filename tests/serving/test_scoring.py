"""Scoring a stream: each request has its result once, by the version that was served, whoever dies meanwhile."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import pytest

from onstream.errors import JobError
from onstream.serving.replica import Replica
from onstream.serving.scoring.scorer import Scorer
from onstream.serving.scoring.work import LogWork
from onstream.streams import Log
from tests.serving import clicks


def requests(count, first=0):
    ids = pa.array(np.arange(first, first + count))
    return pa.RecordBatch.from_arrays(
        [*clicks.rows(count, first).columns, ids], ["user", "price", "request_id"]
    )


def stored(path):
    with Log(path) as log:
        read = log.replay(follow=False).read({}, max_rows=100_000, stop=threading.Event())
        return [row for chunk in read for row in chunk.batch.to_pylist()]


def score(directory, folder, *, keys=("request_id",), **options):
    replica = Replica(directory)
    work = LogWork(
        Log(folder / "requests.db"), Log(folder / "scores.db"), "g", start="earliest", follow=False
    )
    with work:
        scored = Scorer(replica, work, keys=keys, **options).run(threading.Event())
    return scored, stored(folder / "scores.db")


def test_each_request_has_the_score_that_the_version_gives_it(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append(requests(100))
        log.append(requests(50, 100))
    scored, results = score(trained, tmp_path, max_rows=64)
    assert (scored.num_rows, scored.num_errors, scored.version, scored.behind) == (150, 0, 2, (0, "rows"))
    assert [row["request_id"] for row in results] == [row["offset"] for row in results] == list(range(150))
    replica = Replica(trained)
    replica.poll()
    with replica.reading() as version:
        expected = version.predict(requests(150))["click"]
    assert clicks.same([row["click"] for row in results], expected)
    assert {(row["model_version"], row["partition"], row["error"]) for row in results} == {(2, "log", None)}


def test_a_request_that_cannot_be_read_has_an_error_and_costs_no_other(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append([{"user": 1, "price": 2.0}, {"user": 3, "price": float("inf")}, {"user": 4, "price": 1.0}])
        log.append([{"other": 1}])
    scored, results = score(trained, tmp_path)
    assert (scored.num_rows, scored.num_errors) == (4, 2)
    assert [row["click"] is None for row in results] == [False, True, False, True]
    assert [row["error"] is None for row in results] == [True, False, True, False]
    assert "price" in results[1]["error"]
    assert {row["request_id"] for row in results} == {None}


def test_a_key_may_not_be_called_as_another_column(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append(requests(1))
    with pytest.raises(JobError, match="'click'"):
        score(trained, tmp_path, keys=["click"])


def test_rows_that_retention_dropped_are_told_of(trained, tmp_path):
    with Log(tmp_path / "requests.db", retention_rows=10, on_loss="skip") as log:
        work = LogWork(log, Log(tmp_path / "scores.db"), "g", start="earliest", follow=False)
        log.append(requests(20))
        log.append(requests(10, 20))
        with work:
            Scorer(Replica(trained), work, keys=["request_id"]).run(threading.Event())
    results = stored(tmp_path / "scores.db")
    assert results[0]["error"] == "dropped by retention before it was read, got 'rows 0 to 20'"
    assert [row["request_id"] for row in results] == [None, *range(20, 30)]


class Command:
    """The command `onstream score` in a process of its own."""

    def __init__(self, directory, folder, *options):
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "onstream", "score", str(directory)),
                *("--from", str(folder / "requests.db"), "--to", str(folder / "scores.db"), "--group", "g"),
                *("--start", "earliest", "--key", "request_id", "--every", "0", *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def wait_for(self, *texts):
        """Wait until each of these was said, in whatever order."""
        awaited = set(texts)
        for line in self.process.stdout:
            awaited -= {text for text in awaited if text in line}
            if not awaited:
                return
        raise AssertionError(f"{awaited} were never said")

    def end(self, number):
        self.process.send_signal(number)
        said, _ = self.process.communicate(timeout=clicks.BOUND_S)
        return self.process.returncode, said


def test_processes_share_the_requests_and_one_that_is_killed_costs_nothing(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append(requests(2000))
        options = ("--max-rows", "10", "--lease", "0.5")
        killed, other = (Command(trained, tmp_path, *options) for _ in range(2))
        killed.wait_for("rows=")
        killed.end(signal.SIGKILL)
        log.append(requests(500, 2000))
        other.wait_for("lag=0_rows")
        code, said = other.end(signal.SIGTERM)
    assert code == 0, said
    assert said.endswith("stopped\n")
    assert sorted(row["request_id"] for row in stored(tmp_path / "scores.db")) == list(range(2500))


def test_the_command_ends_at_the_end_when_told_and_says_what_is_wrong(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append(requests(30))
    code, said = Command(trained, tmp_path, "--end", "now").end(0)
    assert (code, said.splitlines()[-1]) == (0, "the requests ended"), said
    assert "rows=30 " in said
    code, said = Command(trained, tmp_path / "nowhere").end(0)
    assert code == 2
    assert "there is no log" in said


def test_a_version_that_comes_later_is_waited_for_and_followed(trained, tmp_path):
    with Log(tmp_path / "requests.db") as log:
        log.append(requests(10))
        running = Command(tmp_path / "model", tmp_path, "--tag", "new")
        running.wait_for("waiting: no version of the model is loaded", "there is no tag 'new'; tags are {}\n")
        clicks.copied(trained, tmp_path)
        running.wait_for("rows=10 ")
        code, _ = running.end(signal.SIGINT)
    assert code == 0
    assert [row["model_version"] for row in stored(tmp_path / "scores.db")] == [2] * 10

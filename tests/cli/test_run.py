"""The command that trains and serves at once."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from onstream import Client
from onstream.cli.run import drain_of
from onstream.errors import UnavailableError

JOB = """
from torch import nn
from onstream import Id, Job, Label, Log, Torch

class Sum(nn.Module):
    def forward(self, x):
        return x.stack().sum((1, 2))

job = Job(Log("clicks.db", retention_rows=500), [Id("user"), Label("click")], Torch(Sum), "models/clicks")
"""

FILE_JOB = JOB.replace('Log("clicks.db", retention_rows=500)', 'Files("clicks.csv")').replace(
    "Log,", "Files,"
)


class Running:
    """`onstream run` in a process of its own, on free ports."""

    def __init__(self, folder: Path, job: str = JOB, *options: str) -> None:
        (folder / "clicks.py").write_text(job)
        command = [sys.executable, "-m", "onstream", "run", "clicks.py", "--every", "0.5"]
        ports = ("--rest-port", "0", "--grpc-port", "-1", "--flight-port", "0")
        self.process = subprocess.Popen(
            [*command, *ports, *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._more = threading.Condition()
        # What it says is read as it comes: a full pipe would stop it.
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._more:
                    self.lines.append(line)
                    self._more.notify_all()

    def until(self, pattern: str) -> re.Match[str]:
        """Wait until a line matches."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._more:
            assert self._more.wait_for(found, 60), f"no line matches {pattern!r}:\n{''.join(self.lines)}"
            match = found()
            assert match is not None
            return match

    def client(self) -> Client:
        return Client(self.until(r"grpc://\S+")[0], timeout_s=60)

    def end(self, number: int | None = signal.SIGINT) -> int:
        if number is not None:
            self.process.send_signal(number)
        self.process.wait(60)
        self._reader.join(60)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.end(None)


def server_of(process: int) -> int:
    """Return the process of the server beside."""
    found = subprocess.run(
        ["pgrep", "-P", str(process), "-f", "onstream serve"], capture_output=True, text=True
    )
    return int(found.stdout.split()[0])


def gone(process: int) -> bool:
    """Wait until a process has ended, and so closed what it had open."""
    end = time.monotonic() + 60
    folder = Path(f"/proc/{process}")
    while time.monotonic() < end:
        try:
            ended = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            # Its first thread may be gone while others still end.
            if ended and len(list((folder / "task").iterdir())) == 1:
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        os.sched_yield()
    return False


def test_what_is_sent_is_learned_and_served(tmp_path):
    with Running(tmp_path) as run, run.client() as client:
        with pytest.raises(UnavailableError, match="no version"):
            client.predict({"user": 1}, timeout_s=0.2)
        rows = [{"user": user % 5, "click": int(user % 5 == 0)} for user in range(1000)]
        for at in range(0, 1000, 100):
            client.send(rows[at : at + 100])
        learned = client.learn(rows[:10])
        assert learned.examples >= 1000
        run.until("clicks is ready")
        found = client.predict([{"user": user} for user in range(5)])
        assert found.predictions["click"].shape == (5,)
        # Freshness is that of what a version adds to the one before.
        client.learn(rows[:10])
        line = run.until("served_freshness_p50_s=")
        assert "served_version=" in line.string
        assert "auc=" in line.string
        assert run.end() == 130
    said = "".join(run.lines)
    assert "stopped: 1,020 examples learned now, 1,020 in all; checkpoint" in said
    assert "all requests that were taken were answered" in said


def test_the_server_drops_what_the_job_says_is_old(tmp_path):
    with Running(tmp_path) as run, run.client() as client:
        for _ in range(12):
            client.learn([{"user": 1, "click": 1}] * 100)
        run.end()
    from onstream import Log

    with Log(tmp_path / "clicks.db") as log:
        assert (log.first, log.end) == (700, 1200)


def test_a_server_that_is_killed_is_started_again_and_learning_goes_on(tmp_path):
    with Running(tmp_path, JOB, "--flight-port", str(port := free_port())) as run, run.client() as client:
        client.learn([{"user": 1, "click": 1}] * 100)
        os.kill(server_of(run.process.pid), signal.SIGKILL)
        run.until("started again")
        assert client.learn([{"user": 1, "click": 1}] * 100).examples == 200
        assert str(port) in client.address
        run.end()


def test_a_server_does_not_outlive_its_trainer(tmp_path):
    with Running(tmp_path) as run, run.client() as client:
        client.learn([{"user": 1, "click": 1}] * 100)
        server = server_of(run.process.pid)
        os.kill(run.process.pid, signal.SIGKILL)
        assert gone(server)


def test_a_server_that_cannot_start_says_why_and_nothing_is_trained(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Running(tmp_path, JOB, "--rest-port", str(port)) as run:
            assert run.end(None) == 2
    assert "".join(run.lines) == (
        f"onstream: the server did not start: cannot serve REST at 127.0.0.1:{port}: Address already in use; "
        f"--rest-port takes another port, 0 a free one\n"
    )
    assert not (tmp_path / "models").exists()


def test_where_a_file_ends_serving_goes_on(tmp_path):
    (tmp_path / "clicks.csv").write_text("user,click\n" + "".join(f"{n % 7},{n % 2}\n" for n in range(3000)))
    with Running(tmp_path, FILE_JOB, "--name", "mine") as run:
        address = run.until(r"REST (\S+),")[1]
        run.until("the stream ended; serving goes on")
        run.until("mine is ready")
        body = {"inputs": [{"name": "user", "shape": [1], "datatype": "INT64", "data": [3]}]}
        request = urllib.request.Request(f"{address}/v2/models/mine/infer", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.load(answer)["outputs"][0]["data"]) == 1
        assert run.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ([], 10.0),
        (["--threads", "2"], 10.0),
        (["--drain", "60", "--threads", "2"], 60.0),
        (["--threads", "2", "--drain=60"], 60.0),
        (["--drain", "60", "--drain", "0.5"], 0.5),
        (["--drain", "much"], 10.0),
        (["--drain"], 10.0),
    ],
)
def test_the_server_may_take_as_long_to_end_as_it_is_told_to(options, seconds):
    assert drain_of(options) == seconds


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]

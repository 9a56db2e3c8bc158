"""A small model directory, requests to it, and the command that serves it."""

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pyarrow as pa
import tritonclient.grpc
import tritonclient.http

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.job import load_job
from tests.cli.commands import write_job

BOUND_S = 60.0
"""What no wait of a test may take; nothing is measured by it."""


def train(folder, more_rows=0):
    """Train the model of a folder on its clicks, of which there may be more than before; return its directory."""
    if not (folder / "job.py").exists():
        write_job(folder)
    if more_rows:
        with (folder / "clicks.csv").open("a") as file:
            file.writelines(
                f"{row * 7 % 50},{row % 9},{(row * 7 + 1) % 50 % 2}\n" for row in range(more_rows)
            )
    # The one checkpoint at the end, however long it takes.
    load_job(folder / "job.py").replace({"checkpoint_every_s": 1e9}).train()
    return folder / "model"


def log_of(directory):
    return CheckpointLog(LocalStore(directory))


def copied(directory, folder):
    """Copy a model directory, to be changed."""
    return shutil.copytree(directory, folder / "model")


def rows(count, first=0):
    return pa.record_batch(
        {
            "user": pa.array(np.arange(first, first + count) % 50, pa.int64()),
            "price": pa.array(np.arange(first, first + count) % 9, pa.float32()),
        }
    )


def inputs(module, count, first=0):
    """The same rows as inputs of a tritonclient."""
    batch = rows(count, first)
    made = []
    for name, kind in (("user", "INT64"), ("price", "FP32")):
        made.append(module.InferInput(name, [count], kind))
        made[-1].set_data_from_numpy(batch.column(name).to_numpy())
    return made


CLIENTS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


def client(wire, addresses, **options):
    """A tritonclient of a wire."""
    module = CLIENTS[wire]
    url = addresses.rest.split("//")[1] if wire == "http" else addresses.grpc
    return module.InferenceServerClient(url, **options)


def infer(wire, of, count, first=0, model="model", **options):
    """Ask for predictions; return version and clicks."""
    answer = of.infer(model, inputs(CLIENTS[wire], count, first), **options)
    response = answer.get_response()
    version = response["model_version"] if wire == "http" else response.model_version
    return int(version), answer.as_numpy("click")


def same(found, expected):
    """Tell whether these are the predictions of the same rows: their last bits depend on the size of the call."""
    return np.allclose(found, expected, rtol=0, atol=1e-6)


class Serving:
    """The command `onstream serve` in a process of its own, on free ports."""

    def __init__(self, *arguments):
        ports = ["--rest-port", "0", "--grpc-port", "0", "--flight-port", "0"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "onstream", "serve", *ports, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self.said = []
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            line = self.wait_for("listening: ")
        except BaseException:
            self.__exit__()
            raise
        found = re.fullmatch(r"listening: REST (http\S+), gRPC (\S+), Flight (\S+)\n", line)
        assert found, line
        self.rest, self.grpc, self.flight = found.groups()

    def _read(self):
        for line in self.process.stdout:
            self.said.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text):
        """Return the next line that holds a text."""
        while (line := self._lines.get(timeout=BOUND_S)) is not None:
            if text in line:
                return line
        raise AssertionError(f"{text!r} is not in {self.said}")

    def stop(self, number=signal.SIGTERM):
        """Send a signal; return the exit code and all that was said."""
        self.process.send_signal(number)
        code = self.process.wait(BOUND_S)
        self._reader.join()
        return code, "".join(self.said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        # pytest shows it where a test fails.
        print("".join(self.said))

"""Jobs with Keras models, from the template to the server, by the commands, each in a process of its own."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.serving.clicks import Serving

FLIGHTS = """
import keras
from keras import layers

from onstream import SGD, Files, Id, Job, Keras, Label, Number


def network():
    ids, numbers = keras.Input((4, 8), name="stack"), keras.Input((3,), name="numbers")
    row = layers.Concatenate()([layers.Flatten()(ids), numbers])
    return keras.Model([ids, numbers], layers.Dense(1)(layers.Dense(32, activation="relu")(row)))


job = Job(
    Files("flights.parquet"),
    [
        *(Id(name, 8) for name in ("carrier", "route", "date", "hour")),
        *(Number(name, standardize=True) for name in ("wind_speed", "precip", "visib")),
        Label("late", required=False),
    ],
    Keras(network),
    "models/job",
    optimizer=SGD(lr=0.05),
    batch_size=64,
)
"""

# What the learner itself predicts, gone on from the newest checkpoint; there is nothing more to learn.
PREDICT = """
import json, sys
import pyarrow as pa
from onstream import load_job

trainer = load_job("job.py").trainer()
assert trainer.run().learned == 0
rows = pa.RecordBatch.from_pylist(json.loads(sys.argv[1]))
print(json.dumps({name: values.tolist() for name, values in trainer.predict(rows).items()}))
"""


class Shell:
    """Commands in a folder, with a backend of Keras."""

    def __init__(self, folder, backend):
        self.folder = folder
        self.environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def onstream(self, *arguments):
        return self.python("-m", "onstream", *arguments)

    def python(self, *arguments):
        ran = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def auc(out):
    (line,) = [line for line in out.splitlines() if "predicted before learning" in line]
    return float(line.split("auc ")[1].split(",")[0])


def served(folder, backend, monkeypatch, label, rows):
    """Ask a server for predictions; Keras would not even start there, but TensorFlow brings its own along."""
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow" if backend == "tensorflow" else "none")
    with Serving(f"job={folder}/models/job") as server:
        server.wait_for("is ready: version")
        inputs = [
            {
                "name": name,
                "shape": [len(rows)],
                "datatype": {str: "BYTES", int: "INT64", float: "FP64"}[type(rows[0][name])],
                "data": [row[name] for row in rows],
            }
            for name in rows[0]
        ]
        request = urllib.request.Request(
            f"{server.rest}/v2/models/job/infer",
            json.dumps({"inputs": inputs}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            outputs = json.loads(answer.read())["outputs"]
    return next(output["data"] for output in outputs if output["name"] == label)


def check_whole_run(shell, monkeypatch, rows, label, least):
    """Train, and compare what is served to what the learner says."""
    assert "job.py is fine" in shell.onstream("check", "job.py")
    out = shell.onstream("train", "job.py")
    assert "cannot be exported" not in out
    assert auc(out) > least
    expected = json.loads(shell.python("-c", PREDICT, json.dumps(rows)))[label]
    assert len(set(expected)) == len(rows)
    for some in (rows, rows[:1]):
        found = served(shell.folder, shell.environment["KERAS_BACKEND"], monkeypatch, label, some)
        assert found == pytest.approx(expected[: len(some)], rel=1e-5, abs=1e-6)


CLICKS = [{"user": f"user-{row * 3}", "ad": row, "site": "site-1", "price": 0.5 + row} for row in range(7)]


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_the_template_is_checked_trained_and_served(tmp_path, monkeypatch, backend):
    shell = Shell(tmp_path, backend)
    shell.onstream("init", "job.py", "--template", "keras")
    check_whole_run(shell, monkeypatch, CLICKS, "click", 0.8)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_a_functional_model_learns_of_flights_and_is_served(tmp_path, monkeypatch, backend):
    flights = pq.read_table(Path(__file__).parents[2] / "data/flights.parquet").slice(0, 60_000)
    pq.write_table(flights, tmp_path / "flights.parquet")
    (tmp_path / "job.py").write_text(FLIGHTS)
    columns = ("carrier", "route", "date", "hour", "wind_speed", "precip", "visib")
    rows = flights.select(columns).slice(40_000, 5_000).drop_null().slice(0, 5).to_pylist()
    rows = [{n: v if isinstance(v, str | int | float) else str(v) for n, v in row.items()} for row in rows]
    check_whole_run(Shell(tmp_path, backend), monkeypatch, rows, "late", 0.65)

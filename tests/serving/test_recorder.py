"""The record of predictions: what waits is bounded by rows, and nothing ends it."""

import contextlib
import sqlite3
import threading

import numpy as np
import pyarrow as pa
import pytest

from onstream.serving.metrics import ModelMetrics
from onstream.serving.model import Answer
from onstream.serving.recorder import Recorder
from onstream.streams import Log
from tests.serving.clicks import BOUND_S
from tests.serving.test_served import Counted, until

UNRECORDED = "onstream_unrecorded_requests_total"


@pytest.fixture
def metrics():
    return Counted()


def answer(rows, **labels):
    return Answer(labels or {"click": np.zeros(rows, np.float32)}, 1)


def kept(path):
    with Log(path, follow=False) as log:
        chunks = list(log.read({}, max_rows=10_000, stop=threading.Event()))
    return pa.Table.from_batches([chunk.batch for chunk in chunks])["request"].to_pylist()


def test_no_more_rows_wait_than_may_and_what_is_not_taken_is_counted(tmp_path, metrics):
    path = tmp_path / "record.db"
    recorder = Recorder(path, ModelMetrics(metrics, "clicks"), depth=1000)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        # While another process writes, the record waits.
        other.execute("BEGIN IMMEDIATE")
        for request in range(30):
            recorder.add(request, "usual", answer(100))
        assert metrics.value(UNRECORDED) == 20
        other.execute("ROLLBACK")
    until(lambda: recorder._waiting == 0)
    # One request may be larger than what may wait.
    recorder.add(30, "usual", answer(5000))
    recorder.close(BOUND_S)
    requests = kept(path)
    assert sorted(set(requests)) == [*range(10), 30]
    assert len(requests) == 10 * 100 + 5000


def test_an_answer_that_cannot_be_recorded_is_counted_and_the_next_one_is_kept(tmp_path, metrics, caplog):
    path = tmp_path / "record.db"
    recorder = Recorder(path, ModelMetrics(metrics, "clicks"))
    recorder.add(0, "usual", answer(3, click=["no", "numbers"]))
    until(lambda: metrics.value(UNRECORDED) == 1)
    assert "predictions cannot be recorded" in caplog.text
    recorder.add(1, "usual", answer(2))
    recorder.close(BOUND_S)
    assert kept(path) == [1, 1]
    assert metrics.value(UNRECORDED) == 1

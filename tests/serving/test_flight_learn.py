"""Learning over Flight: the answer is what the model predicted before it learned, and nothing is learned twice."""

import decimal
import math

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from onstream.serving.oip.limits import Limits
from onstream.serving.server import Server
from onstream.serving.settings import ServerSettings
from onstream.streams import Log
from tests.serving.flights import connect, exchange, failure, put, served
from tests.serving.learning import training

LEARN = {"verb": "learn", "timeout_s": 30}


def clicks(*pairs):
    users, labels = zip(*pairs, strict=True)
    return pa.record_batch({"user": pa.array(users, pa.int64()), "click": pa.array(labels, pa.float64())})


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


@pytest.fixture
def server(tmp_path):
    with served(tmp_path) as server, training(server.logs["events"], tmp_path / "model"):
        yield server


@pytest.fixture
def client(server):
    with connect(server) as client:
        yield client


def test_the_answer_is_the_prediction_before_learning_and_the_next_one_knows_of_it(client):
    (first, about), (second, after) = exchange(
        client, LEARN, clicks((7, 1), (8, 0)), clicks((7, 1), (8, 1), (9, 1))
    )
    assert first["click"].to_pylist() == [0.5, 0.5]
    assert about["loss"] == pytest.approx(math.log(2))
    assert (about["first"], about["end"], about["examples"], about["rejects"]) == (0, 2, 2, {})
    # A step of 1 along the gradient of the log loss, which was half.
    expected = [sigmoid(0.5), sigmoid(-0.5), 0.5]
    assert second["click"].to_pylist() == pytest.approx(expected, abs=1e-6)
    assert after["loss"] == pytest.approx(np.mean([-math.log(p) for p in expected]), abs=1e-6)
    assert (after["first"], after["end"], after["examples"]) == (2, 5, 5)


def test_a_repeat_gets_the_same_answer_and_is_not_learned_again(client):
    numbered = [{"writer": "w", "sequence": 0}]
    first = exchange(client, LEARN, clicks((7, 1)), metadata=numbered)
    assert exchange(client, LEARN, clicks((7, 1)), metadata=numbered) == first
    [(_, about)] = exchange(client, LEARN | {"writer": "w"}, clicks((7, 1)), metadata=[{"sequence": 1}])
    assert (about["end"], about["examples"]) == (2, 2)


def test_rejected_rows_are_told_with_the_reason(client):
    [(batch, about)] = exchange(client, LEARN, clicks((7, 1), (8, 5), (9, 0)))
    made = batch["click"].to_pylist()
    assert (made[0], made[2]) == (0.5, 0.5)
    assert math.isnan(made[1])
    assert list(about["rejects"]) == ["1"]
    assert "click" in about["rejects"]["1"]
    [(batch, about)] = exchange(client, LEARN, pa.record_batch({"other": [1]}))
    assert about["loss"] is None
    assert "user" in about["rejects"]["0"]


def test_learned_and_sent_rows_mix_and_each_gets_its_own(client):
    exchange(client, LEARN, clicks((100, 1)))
    put(client, clicks(*((200 + k, 1) for k in range(49))))
    [(batch, about)] = exchange(client, LEARN, clicks((100, 1), (1, 1)))
    assert batch["click"].to_pylist() == pytest.approx([sigmoid(0.5), 0.5], abs=1e-6)
    assert (about["first"], about["examples"]) == (50, 52)


def test_rows_that_the_trainer_does_not_reach_in_time_are_answered_once_it_does(tmp_path):
    numbered = [{"writer": "w", "sequence": 0}]
    with served(tmp_path) as server, connect(server) as client:
        error = failure(exchange, client, LEARN | {"timeout_s": 0.05}, clicks((7, 1)), metadata=numbered)
        assert isinstance(error, fl.FlightTimedOutError)
        assert "rows 0 to 1 are in the log" in str(error)
        with training(server.logs["events"], tmp_path / "model"):
            [(batch, about)] = exchange(client, LEARN, clicks((7, 1)), metadata=numbered)
    assert batch["click"].to_pylist() == [0.5]
    assert about["end"] == 1


def test_no_batch_waits_longer_than_the_limit_of_the_server_whatever_it_asks_for(tmp_path):
    settings = ServerSettings(rest_port=None, grpc_port=None, flight_port=0)
    limits = Limits(timeout_s=0.05)
    with (
        Log(tmp_path / "log.db") as log,
        Server({}, settings, logs={"events": log}, limits=limits) as server,
        fl.connect(server.addresses.flight) as client,
    ):
        error = failure(exchange, client, LEARN, clicks((7, 1)), options=fl.FlightCallOptions(timeout=60))
        assert "within 0.05 s" in str(error)


def test_a_trainer_that_goes_on_from_a_checkpoint_answers_what_came_meanwhile(tmp_path):
    with served(tmp_path) as server, connect(server) as client:
        log = server.logs["events"]
        with training(log, tmp_path / "model"):
            exchange(client, LEARN, clicks((7, 1)))
        sent = log.append(clicks((7, 1), (8, 1)), answer=True)
        with training(log, tmp_path / "model"):
            answered = log.answers(sent.first, sent.end, timeout_s=30)
        assert answered.predictions["click"].to_pylist() == pytest.approx([sigmoid(0.5), 0.5], abs=1e-6)
        assert answered.examples == 3


def odd_columns():
    yield pa.nulls(2)
    yield pa.array([True, None])
    yield pa.array([decimal.Decimal("1.5"), None])
    yield pa.array([[1], None])
    yield pa.array([{"a": 1}, None])
    yield pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64()))
    yield pa.array(["a", None]).dictionary_encode()
    yield pa.RunEndEncodedArray.from_arrays([2], pa.array([5]))
    yield pa.array([1, None], pa.duration("s"))
    yield pa.array([b"\xff", None])
    yield pa.array(["a", None]).cast(pa.string_view())
    yield pa.array([math.inf, math.nan])
    yield pa.array([2**64 - 1, None], pa.uint64())
    yield pa.array([2**62, None], pa.timestamp("s"))
    yield pa.array([b"0123456789abcdef"] * 2, pa.uuid())
    types, offsets = pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32())
    yield pa.UnionArray.from_dense(types, offsets, [pa.array([1]), pa.array(["a"])])


def test_no_batch_that_is_appended_stops_the_trainer(server, client):
    good = {"user": pa.array([1, 2]), "click": pa.array([0.0, 1.0])}
    for odd in odd_columns():
        put(client, pa.record_batch(good | {"user": odd}))
        put(client, pa.record_batch(good | {"click": odd}))
        put(client, pa.record_batch({"other": odd}))
    assert "no columns" in str(failure(put, client, pa.record_batch(good).select([])))
    [(batch, _)] = exchange(client, LEARN, clicks((77, 1)))
    assert batch["click"].to_pylist() == [0.5]

"""Scoring a topic: each request has its result once, in the topic of results."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid

import confluent_kafka
import pytest

from onstream import Json, Kafka, Log
from onstream.errors import JobError, StreamError
from onstream.serving.replica import Replica
from onstream.serving.scoring.kafka_work import KafkaWork
from onstream.serving.scoring.places import open_work
from onstream.serving.scoring.scorer import Scorer
from tests.serving import clicks
from tests.streams.kafka.brokers import tansu

FAST = "session.timeout.ms=6000&heartbeat.interval.ms=100"
TYPES = {
    "request_id": "int64",
    "click": "float64",
    "model_version": "int64",
    "offset": "int64",
    "error": "string",
}


@pytest.fixture(scope="module")
def broker():
    with tansu() as (found, _):
        yield found


def requests(first, end):
    rows = clicks.rows(end - first, first).to_pylist()
    return [json.dumps(row | {"request_id": first + i}, default=str).encode() for i, row in enumerate(rows)]


def results(broker, topic):
    source = Kafka(topic, servers=broker.servers, format=Json(TYPES), end="now", metadata=["_key"])
    return [
        row
        for chunk in source.read({}, max_rows=10_000, stop=threading.Event())
        for row in chunk.batch.to_pylist()
    ]


def test_requests_of_a_topic_have_their_results_in_another_once(trained, broker):
    asked, scores = broker.create("asked", 2), broker.create("scores", 1)
    broker.send(asked, [*requests(0, 300), b"{"], partition=0)
    broker.send(asked, requests(300, 500), partition=1)
    place = f"kafka://{broker.servers}"
    for first in (0, 500):
        work = open_work(
            f"{place}/{asked}?{FAST}",
            f"{place}/{scores}",
            "scorers",
            start="earliest",
            follow=False,
            lease_s=1,
            keys=["request_id"],
        )
        with work:
            scored = Scorer(Replica(trained), work, keys=["request_id"], max_rows=128).run(threading.Event())
        # What was scored before is not scored again.
        assert scored.num_rows == (501 if first == 0 else 100)
        broker.send(asked, requests(500, 600), partition=1)
    found = results(broker, scores)
    assert sorted(row["request_id"] for row in found if row["error"] is None) == list(range(600))
    assert {row["_key"] for row in found if row["request_id"] == 7} == {b"7"}
    [bad] = [row for row in found if row["error"] is not None]
    assert (bad["offset"], bad["request_id"], bad["_key"]) == (300, None, None)


def scored(trained, source, target, **options):
    work = open_work(
        source, target, "g", start="earliest", follow=False, lease_s=1, keys=["request_id"], **options
    )
    with work:
        return Scorer(Replica(trained), work, keys=["request_id"], max_rows=128).run(threading.Event())


def test_requests_of_a_topic_have_their_results_in_a_log_once(trained, broker, tmp_path):
    asked = broker.create("asked-for-a-log", 2)
    place = f"kafka://{broker.servers}/{asked}?{FAST}"
    broker.send(asked, requests(0, 300), partition=0)
    broker.send(asked, requests(300, 500), partition=1)
    assert scored(trained, place, str(tmp_path / "scores.db")).num_rows == 500
    broker.send(asked, requests(500, 600), partition=1)
    assert scored(trained, place, str(tmp_path / "scores.db")).num_rows == 100
    with Log(tmp_path / "scores.db", follow=False) as log:
        read = log.read({}, max_rows=10_000, stop=threading.Event())
        assert sorted(n for chunk in read for n in chunk.batch["request_id"].to_pylist()) == list(range(600))


def test_who_lost_a_partition_writes_nothing_into_the_log(trained, broker, tmp_path):
    asked = broker.create("asked-by-two")
    broker.send(asked, requests(0, 100))
    work = open_work(
        f"kafka://{broker.servers}/{asked}?{FAST}",
        str(tmp_path / "scores.db"),
        "g",
        start="earliest",
        follow=False,
        lease_s=1,
    )
    with work, Log(tmp_path / "scores.db", follow=False) as log:
        piece = work.take(1000, threading.Event())
        with log.file.write() as connection:
            connection.execute("INSERT INTO scored VALUES ('g', ?, 100)", (f"{asked}/0",))
        assert not work.write(piece, [clicks.rows(3)], threading.Event())
        assert log.end == 0


@contextlib.contextmanager
def taken(broker, name):
    """Take one request of a new topic, whose result belongs into another."""
    asked, scores = broker.create(f"asked-{name}"), broker.create(f"scores-{name}")
    broker.send(asked, requests(0, 1))
    place = f"kafka://{broker.servers}"
    with open_work(
        f"{place}/{asked}?{FAST}", f"{place}/{scores}", name, start="earliest", follow=True, lease_s=1
    ) as work:
        yield work, work.take(10, threading.Event()), clicks.rows(1)


def test_a_writer_that_the_broker_has_ended_is_made_anew(broker, monkeypatch):
    monkeypatch.setattr(uuid, "uuid4", lambda: "known")
    with taken(broker, "fenced") as (work, piece, result):
        # To the broker the same as a transaction that lay open for too long: the name has a newer epoch.
        broker.transactional("fenced-known")
        assert work.write(piece, [result], threading.Event())
    assert broker.committed("fenced", "asked-fenced", 1) == [1]
    assert len(results(broker, "scores-fenced")) == 1


def test_who_lost_a_partition_writes_nothing_into_the_topic_though_it_is_of_the_group(broker):
    asked, scores = broker.create("asked-by-some", 2), broker.create("scores-by-some")
    for partition in range(2):
        broker.send(asked, requests(0, 1), partition=partition)

    def work():
        fast = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "100"}
        options = {"format": Json(), "start": "earliest", "patience_s": 1.0, "config": fast}
        return KafkaWork(Kafka(asked, servers=broker.servers, group="some", **options), scores)

    with work() as first:
        pieces = [first.take(10, threading.Event()) for _ in range(2)]
        with work():
            while len(first.source.expected_partitions()) != 1:
                threading.Event().wait(0.01)
            [kept] = first.source.expected_partitions()
            for piece in pieces:
                own = piece.chunks[0].partition == kept
                assert first.write(piece, [clicks.rows(1)], threading.Event()) is own
    assert len(results(broker, scores)) == 1


class Stranger(confluent_kafka.Producer):
    """What it writes comes from none of the group's members; brokers for tests do not look."""

    def send_offsets_to_transaction(self, *arguments):
        error = confluent_kafka.KafkaError(22, "no such generation", txn_requires_abort=True)
        raise confluent_kafka.KafkaException(error)


def test_who_waits_for_its_group_to_settle_can_be_stopped(broker, monkeypatch):
    monkeypatch.setattr(confluent_kafka, "Producer", Stranger)
    stop = threading.Event()
    stop.set()
    with taken(broker, "stopped") as (work, piece, result):
        assert not work.write(piece, [result], stop)


def test_who_waits_for_its_group_to_settle_hears_that_it_was_lost(broker, monkeypatch):
    lost = threading.Event()

    class Losing(confluent_kafka.Consumer):
        def poll(self, *arguments):
            if lost.is_set():
                raise StreamError("the connection is gone")
            return super().poll(*arguments)

    monkeypatch.setattr(confluent_kafka, "Producer", Stranger)
    monkeypatch.setattr(confluent_kafka, "Consumer", Losing)
    with taken(broker, "lost") as (work, piece, result):
        lost.set()
        with pytest.raises(StreamError, match="the connection is gone"):
            work.write(piece, [result], threading.Event())


def test_requests_of_a_log_have_their_results_in_a_topic(trained, broker, tmp_path):
    scores = broker.create("scores-of-a-log")
    with Log(tmp_path / "requests.db") as log:
        log.append([json.loads(request) for request in requests(0, 200)])
        for expected in (200, 0):
            made = scored(trained, str(log.path), f"kafka://{broker.servers}/{scores}")
            assert made.num_rows == expected
    assert sorted(row["request_id"] for row in results(broker, scores)) == list(range(200))


def test_a_message_of_many_requests_is_one_piece_with_its_results(trained, broker, tmp_path):
    asked = broker.create("asked-in-csv")
    lines = [f"{n % 50},{n % 9},{n}" for n in range(90)]
    messages = ["\n".join(["user,price,request_id", *lines[at : at + 30]]).encode() for at in (0, 30, 60)]
    broker.send(asked, messages)
    place = f"kafka://{broker.servers}/{asked}?{FAST}&format=csv"
    work = open_work(place, str(tmp_path / "s.db"), "g", start="earliest", follow=False, lease_s=1)
    with work:
        pieces = []
        while (piece := work.take(40, threading.Event())) is not None:
            pieces.append((sum(chunk.batch.num_rows for chunk in piece.chunks), piece.proof[f"{asked}/0"]))
            work.finish(piece.proof)
    assert pieces == [(30, 1), (30, 2), (30, 3)]


def test_places_that_do_not_go_together_are_told():
    where = {"start": "latest", "follow": False, "lease_s": 1}
    with pytest.raises(JobError, match="made by one cluster"):
        open_work("kafka://a:1/x", "kafka://b:1/y", "g", **where)
    with pytest.raises(JobError, match="the format is one of json, csv, arrow"):
        open_work("kafka://a:1/x?format=xml", "kafka://a:1/y", "g", **where)
    with pytest.raises(JobError, match="a topic is written kafka://host:port/topic"):
        open_work("kafka://a:1", "kafka://a:1/y", "g", **where)


@pytest.mark.long
def test_a_process_that_is_killed_costs_no_request_and_scores_none_twice(trained, broker):
    asked, scores = broker.create("asked-of-killed", 1), broker.create("scores-of-killed", 1)
    broker.send(asked, requests(0, 600))
    place = f"kafka://{broker.servers}"
    options = [
        *("--from", f"{place}/{asked}?{FAST}", "--to", f"{place}/{scores}", "--group", "killed"),
        *("--start", "earliest", "--key", "request_id", "--max-rows", "10", "--every", "0"),
    ]

    def start(*more):
        return subprocess.Popen(
            [sys.executable, "-m", "onstream", "score", str(trained), *options, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    with start() as killed:
        # With lines due at once, one is printed after every transaction.
        assert any(line.startswith("rows=200 ") for line in killed.stdout)
        killed.kill()
    # What is there, and how far the requests are done, are one fact.
    [done] = broker.committed("killed", asked, 1)
    assert 200 <= done < 600
    assert [row["request_id"] for row in results(broker, scores)] == list(range(done))
    with start("--end", "now") as other:
        said, _ = other.communicate(timeout=clicks.BOUND_S)
    assert other.returncode == 0, said
    assert [row["request_id"] for row in results(broker, scores)] == list(range(600))
    assert broker.committed("killed", asked, 1) == [600]

"""Scoring a topic: each request has its result once, in the topic of results."""

import json
import threading

import pytest

from onstream import Json, Kafka
from onstream.errors import JobError
from onstream.serving.replica import Replica
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


def test_places_that_do_not_go_together_are_told():
    where = {"start": "latest", "follow": False, "lease_s": 1}
    with pytest.raises(JobError, match="both in logs or both in topics"):
        open_work("kafka://a:1/x", "scores.db", "g", **where)
    with pytest.raises(JobError, match="made by one cluster"):
        open_work("kafka://a:1/x", "kafka://b:1/y", "g", **where)
    with pytest.raises(JobError, match="the format is one of json, csv, arrow"):
        open_work("kafka://a:1/x?format=xml", "kafka://a:1/y", "g", **where)
    with pytest.raises(JobError, match="a topic is written kafka://host:port/topic"):
        open_work("kafka://a:1", "kafka://a:1/y", "g", **where)

"""What is said to a stream is checked at once, can be changed by name, and tells no secret."""

import json
import subprocess
import sys

import pytest

from onstream import Id, Job, Kafka, Label, Torch
from onstream.errors import JobError
from onstream.streams.formats import Json
from tests.jobs.networks import Sum


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"topic": ""}, "topic must be a name, a pattern, or a list"),
        ({"topic": []}, "topic must be a name, a pattern, or a list"),
        ({"topic": "^("}, "'^(' is no regular expression"),
        ({"servers": ""}, "servers must be text"),
        ({"group": ""}, "group must be text"),
        ({"partitions": [-1]}, "partitions must be 'all' or a list of whole numbers"),
        ({"partitions": []}, "partitions must be 'all' or a list of whole numbers"),
        ({"start": "newest"}, "start must be 'earliest', 'latest', a time"),
        ({"start": {"clicks": 3}}, "a partition is written 'topic/number', got 'clicks'"),
        ({"start": {"clicks/0": -3}}, "offset of 'clicks/0' must be 0 or above"),
        ({"end": "later"}, "end must be one of"),
        ({"on_loss": "continue"}, "on_loss must be one of"),
        ({"isolation": "none"}, "isolation must be one of"),
        ({"metadata": ["_color"]}, "metadata must be of _topic, _partition"),
        ({"patience_s": 0}, "patience_s must be above 0"),
        ({"rate": -1}, "rate must be a number of rows a second above 0"),
        ({"format": "json"}, "format must be such as Json()"),
        ({"config": {"group.id": "x"}}, "'group.id' is decided by onstream; use group= in its place"),
        ({"config": {"enable.auto.commit": True}}, "'enable.auto.commit' is decided by onstream"),
    ],
)
def test_what_cannot_be_is_told(settings, said):
    with pytest.raises(JobError) as caught:
        Kafka(**{"topic": "clicks"} | settings)
    assert said in str(caught.value)


def test_a_setting_that_librdkafka_does_not_know_is_told(broker, topic):
    source = Kafka(topic, servers=broker.servers, config={"no.such.thing": 1})
    with pytest.raises(JobError, match=r'No such configuration property: "no\.such\.thing"'):
        next(source.read({}, max_rows=1, stop=None))


def job(tmp_path, **settings) -> Job:
    source = Kafka("clicks", format=Json({"id": "int64", "click": "int8"}), **settings)
    return Job(source, [Id("id", dim=1), Label("click")], Torch(Sum), tmp_path)


def test_a_job_tells_its_stream_without_passwords(tmp_path):
    secret = {"sasl.password": "hush", "ssl.key.password": "hush", "security.protocol": "SASL_SSL"}
    told = job(tmp_path, group="trainers", config=secret).describe()["stream"]
    assert "hush" not in json.dumps(told)
    assert "SASL_SSL" in told["config"]
    assert (told["kind"], told["topic"], told["group"]) == ("Kafka", "clicks", "trainers")
    assert not [name for name in told if name.startswith("_")]


def test_settings_of_a_stream_are_changed_by_name(tmp_path):
    changed = job(tmp_path).replace(
        {"stream.start": "2026-01-01", "stream.end": "now", "stream.servers": "there:9092"}
    )
    assert (changed.stream.start, changed.stream.end, changed.stream.servers) == (
        "2026-01-01",
        "now",
        "there:9092",
    )
    with pytest.raises(JobError, match="on_loss must be one of"):
        job(tmp_path).replace({"stream.on_loss": "x"})
    assert changed.stream == changed.stream.replace()
    assert job(tmp_path).stream != changed.stream


def test_a_look_at_a_stream_shows_rows_and_joins_no_group(broker, topic, tmp_path):
    broker.send(topic, [b'{"id": 7, "click": 1}'])
    source = Kafka(
        topic, servers=broker.servers, group="seen", format=Json({"id": "int64", "click": "int8"}), end="now"
    )
    found = Job(source, [Id("id", dim=1), Label("click")], Torch(Sum), tmp_path).check(1)
    assert found.rows[0]["click"] == 1.0
    assert broker.committed("seen", topic, 1) == [-1001]


def test_a_stream_can_be_described_where_confluent_kafka_is_missing_and_reading_names_the_extra():
    program = """
import sys, threading
sys.modules["confluent_kafka"] = None
from onstream import Kafka
from onstream.errors import MissingExtraError
try:
    next(Kafka("clicks").read({}, max_rows=1, stop=threading.Event()))
except MissingExtraError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "Kafka needs confluent-kafka: pip install 'onstream[kafka]'\n"

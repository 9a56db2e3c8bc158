"""A trainer of a join of two topics learns each impression once, with its right label, however it ends."""

import random
import threading
from pathlib import Path

import pytest

from onstream import Join, Json, Kafka, Wait
from onstream.checkpoints import CheckpointLog, LocalStore
from tests.streams.join.joined import Still, all_rows
from tests.streams.kafka.jobs import run_until, sights

JOB = """
import sys
sys.path.insert(0, {root!r})
from onstream import Id, Job, Join, Json, Kafka, Label, Torch, Wait
from tests.jobs.networks import Sum

def read(topic):
    return Kafka(topic, servers={servers!r}, format=Json({{"id": "int64", "at": "float64"}}), end="now")

job = Job(
    Join(read({shown!r}), read({clicked!r}), on="id", time="at", label="click", window="1m",
         policy=Wait(measured=0), memory="20KB"),
    [Id("id", dim=1), Label("click")],
    Torch(Sum),
    {directory!r},
    batch_size=64,
    checkpoint_every_s=0.001,
    report_every_s=1e-6,
)
"""


def write_job(path, broker, shown, clicked):
    path.write_text(
        JOB.format(
            root=str(Path(__file__).parents[3]),
            servers=broker.servers,
            shown=shown,
            clicked=clicked,
            directory=str(path.with_suffix("")),
        )
    )
    return path


def send(broker, shown, clicked, rows):
    """Send impressions, two seconds apart, and clicks to every third within a minute, to two partitions each."""
    draw = random.Random(3)
    at = [1_600_000_000 + 2 * i for i in range(rows)]
    clicks = sorted((at[i] + draw.uniform(1, 59), i) for i in range(0, rows, 3))
    for partition in (0, 1):
        message = b'{"id": %d, "at": %f}'
        broker.send(shown, [message % (i, at[i]) for i in range(rows) if i % 2 == partition], partition)
        broker.send(
            clicked, [message % (i, then) for then, i in clicks if i // 2 % 2 == partition], partition
        )


def weights(directory):
    """Return the newest weight of each id."""
    log = CheckpointLog(LocalStore(directory))
    manifest = log.newest()
    found = {}
    for table in manifest.tables:
        for delta in log.rows(manifest, table):
            found |= zip(delta.keys.tolist(), delta.weights[:, 0].tolist(), strict=True)
    return list(found.values())


def test_a_join_of_topics_whose_trainer_is_killed_learns_each_impression_once(broker, topic, tmp_path):
    rows = 3_000
    shown, clicked = topic, broker.create(f"{topic}-clicks", 2)
    send(broker, shown, clicked, rows)
    job = write_job(tmp_path / "job.py", broker, shown, clicked)
    assert run_until(job, 12) == -9
    assert run_until(job, None) == 0
    assert sights(tmp_path / "job") == {1: rows}
    # One step from nothing: up where the label was 1, down where it was 0.
    found = weights(tmp_path / "job")
    assert (sum(w > 0 for w in found), sum(w < 0 for w in found)) == (rows // 3, rows - rows // 3)


AT = 1_600_000_000


def rows_at(partition, times):
    return [b'{"id": %d, "at": %d}' % (10 * i + partition, AT + time) for i, time in enumerate(times)]


def joined(broker, shown, clicked, *, start="earliest", end=None, **options):
    """Return a join of two topics whose clock stands still, so that nothing becomes idle."""
    shown, clicked = (
        Kafka(
            topic,
            servers=broker.servers,
            format=Json({"id": "int64", "at": "float64"}),
            start=start if topic == shown else "earliest",
            end=end,
        )
        for topic in (shown, clicked)
    )
    rules = {"on": "id", "time": "at", "label": "click", "window": "10s", "policy": Wait(measured=0)}
    return Join(shown, clicked, **rules, clock=Still(AT + 1e6), **options)


@pytest.mark.parametrize("start", ["earliest", "1970-01-01T00:00:02", "offsets"])
def test_a_partition_of_which_nothing_came_yet_holds_the_watermark_back(broker, topic, start):
    clicked = broker.create(f"{topic}-clicks", 1)
    for partition in (0, 1):
        # The second one has messages, but none from where reading begins.
        broker.send(topic, [b'{"id": 0, "at": 0}'], partition, timestamp=1_000)
    broker.send(topic, rows_at(0, range(0, 100, 10)), partition=0, timestamp=3_000)
    broker.send(clicked, rows_at(0, [1000]), partition=0)
    start = {f"{topic}/{partition}": 1 for partition in (0, 1)} if start == "offsets" else start
    if start == "earliest":
        topic = broker.create(f"{topic}-empty", 2)
        broker.send(topic, rows_at(0, range(0, 100, 10)), partition=0)
    reading = joined(broker, topic, clicked, start=start).read({}, max_rows=100, stop=threading.Event())
    numbers, rows = {}, []

    def read_until(done):
        while not done():
            chunk = next(reading)
            rows.extend(chunk.batch.to_pylist())
            numbers.update(chunk.state.figures())

    read_until(lambda: numbers.get("join/impressions") == 10)
    assert rows == []
    broker.send(topic, rows_at(1, [5, 15, 1000]), partition=1)
    read_until(lambda: len(rows) > 3)
    assert [row["id"] for row in rows[:4]] == [0, 1, 10, 11]
    assert numbers["join/late_impressions"] == 0
    reading.close()


def test_partitions_that_end_at_different_times_are_joined_to_their_ends(broker, topic):
    clicked = broker.create(f"{topic}-clicks", 1)
    broker.send(topic, rows_at(0, range(10)), partition=0)
    broker.send(topic, rows_at(1, range(500)), partition=1)
    broker.send(clicked, rows_at(1, range(500)), partition=0)
    rows = all_rows(joined(broker, topic, clicked, end="now", drift="1m"), max_rows=4)
    assert len(rows) == 510
    assert sum(row["click"] for row in rows) == 500

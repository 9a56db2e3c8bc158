"""A trainer of a join of two topics learns each impression once, with its right label, however it ends."""

import random
from pathlib import Path

from onstream.checkpoints import CheckpointLog, LocalStore
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

"""What a group hears of a stream that reads partitions of its own choice, and what comes of it."""

import threading

import pytest

from onstream import Kafka
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.streams.formats import Json
from tests.streams.kafka.jobs import TYPES, messages, run_until, sights, write_job
from tests.streams.kafka.test_kafka_reading import column, lines, stalled
from tests.streams.streamed import positions_of, read


def told(broker, topic, partitions="all", **settings) -> Kafka:
    """Return a stream that tells a group how far it was learned."""
    group = f"{topic}-group"
    return Kafka(
        topic,
        servers=broker.servers,
        format=Json({"n": "int64"}),
        group=group,
        partitions=partitions,
        **{"end": "now"} | settings,
    )


def learn(source: Kafka, positions: dict[str, int]) -> list[int]:
    """Read a stream as a trainer does, from the positions of a checkpoint to another of all that was read."""
    source.kept(positions)
    chunks = read(source, positions)
    source.kept(positions | positions_of(chunks))
    source.release()
    return sorted(column(chunks))


@pytest.mark.parametrize("partitions", ["all", [0, 1]])
def test_positions_of_an_older_checkpoint_come_before_what_was_committed(broker, topic, partitions):
    broker.send(topic, lines(*range(20)), partition=0)
    broker.send(topic, lines(*range(20, 30)), partition=1)
    assert learn(told(broker, topic, partitions), {}) == list(range(30))
    assert broker.committed(f"{topic}-group", topic, 2) == [20, 10]
    older = {f"{topic}/0": 5, f"{topic}/1": 3}
    again = told(broker, topic, partitions)
    assert learn(again, older) == [*range(5, 20), *range(23, 30)]
    assert again.notes == []


def test_of_a_checkpoint_that_does_not_know_a_partition_nothing_of_it_was_learned(broker, topic):
    broker.send(topic, lines(*range(20)), partition=0)
    broker.send(topic, lines(*range(20, 30)), partition=1)
    learn(told(broker, topic), {})
    assert learn(told(broker, topic), {f"{topic}/0": 15}) == list(range(15, 30))


def test_the_group_hears_that_a_stream_has_gone_back(broker, topic):
    broker.send(topic, lines(*range(20)))
    learn(told(broker, topic), {})
    source = told(broker, topic, partitions=[0])
    source.kept({f"{topic}/0": 5})
    chunks = source.read({f"{topic}/0": 5}, max_rows=5, stop=threading.Event())
    while not column([next(chunks)]):
        pass
    source.release()
    assert broker.committed(f"{topic}-group", topic, 1) == [5]


def test_without_positions_reading_begins_where_the_group_stands(broker, topic):
    broker.send(topic, lines(*range(20)))
    learn(told(broker, topic), {})
    broker.send(topic, lines(20, 21))
    assert learn(told(broker, topic), {}) == [20, 21]


def test_the_last_checkpoint_is_committed_where_reading_stopped_with_a_full_queue(broker, topic):
    broker.send(topic, lines(*range(2_000)))
    source = told(broker, topic, end=None)
    source.kept({})
    stop = threading.Event()
    chunks = source.read({}, max_rows=10, stop=stop)
    given = 0
    while given < 500:
        # Far more is there than the queue takes, and it is filled faster than it is read.
        given += len(column([next(chunks)]))
    stop.set()
    given += len(column(list(chunks)))
    # The trainer makes a checkpoint of what it was given after reading has ended; meanwhile the group is polled for.
    stalled(source)
    source.kept({f"{topic}/0": given, f"{topic}/1": 0})
    source.release()
    assert broker.committed(f"{topic}-group", topic, 2) == [given, 0]


def test_a_trainer_that_goes_back_to_an_older_checkpoint_learns_what_lies_behind_it(broker, topic, tmp_path):
    broker.send(topic, messages(0, 2_000), partition=0)
    broker.send(topic, messages(2_000, 3_000), partition=1)
    job = write_job(
        tmp_path / "job.py",
        topic,
        f"servers={broker.servers!r}, format=Json({TYPES!r}), end='now', group='back-{topic}', partitions='all'",
        checkpoint_every_s=0.001,
    )
    assert run_until(job, None) == 0
    assert broker.committed(f"back-{topic}", topic, 2) == [2_000, 1_000]
    with CheckpointLog(LocalStore(tmp_path / "job")) as log:
        older = log.rollback(min(log.versions()))
    assert older.facts["examples"] < 3_000
    assert run_until(job, None) == 0
    assert sights(tmp_path / "job") == {1: 3_000}

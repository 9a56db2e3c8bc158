"""Trainers with checkpoints of their own that share a topic by a group."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from onstream import Id, Job, Kafka, Label, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.streams.formats import Json
from tests.jobs.networks import Sum
from tests.streams.kafka.brokers import mock_cluster
from tests.streams.kafka.jobs import TYPES, messages, sights

FAST = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 100}


class Member:
    """A trainer in a thread."""

    def __init__(self, servers: str, topic: str, directory: Path, **settings) -> None:
        self.directory = directory
        stream = Kafka(
            topic,
            servers=servers,
            format=Json(TYPES),
            **{"group": f"{topic}-trainers", "config": FAST, "patience_s": 30.0} | settings,
        )
        job = Job(
            stream,
            [Id("id", dim=1), Label("click")],
            Torch(Sum),
            directory,
            batch_size=64,
            checkpoint_every_s=0.2,
            max_wait_s=0.05,
        )
        self.notes: list[str] = []
        self.stop = threading.Event()
        self.trainer = job.trainer(self)
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, progress) -> None:
        pass

    @property
    def partitions(self) -> set[str]:
        return set(self.trainer.stream.expected_partitions())

    def leave(self) -> None:
        self.stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failure is not None:
            raise self.failure

    def _train(self) -> None:
        try:
            self.trainer.run(self.stop)
        except BaseException as error:
            self.failure = error


def until(done: Callable[[], bool], timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def learned(*members: Path) -> int:
    found = [CheckpointLog(LocalStore(directory)).newest() for directory in members]
    return sum(newest.facts["examples"] for newest in found if newest is not None)


def share(broker, topic: str, tmp_path: Path, visits: int) -> None:
    """Let one trainer begin, another come and go, and messages come all the time."""
    fed = itertools.count(0, 500)
    sent = 0

    def feed(batches: int) -> None:
        nonlocal sent
        for first in itertools.islice(fed, batches):
            broker.send(topic, messages(first, first + 500), partition=first // 500 % 4)
            sent = first + 500

    one, two = tmp_path / "one", tmp_path / "two"
    feed(4)
    first = Member(broker.servers, topic, one)
    until(lambda: len(first.partitions) == 4 and learned(one) == 2_000)
    told = []
    for _ in range(visits):
        second = Member(broker.servers, topic, two)
        while len(second.partitions) < 2:
            # Not more than they learn: a mock cluster forgets what is old.
            feed(1)
            until(lambda: learned(one, two) == sent)
        until(lambda: len(first.partitions) == 2)
        feed(8)
        until(lambda: learned(one, two) == sent)
        feed(2)
        second.leave()
        told += second.notes
        feed(4)
        until(lambda: len(first.partitions) == 4)
        feed(4)
        until(lambda: learned(one, two) == sent)
    first.leave()
    assert learned(two) > 0
    assert sights(one, two) == {1: sent}
    told += first.notes
    assert not [note for note in told if "others learn them too" in note]
    assert any("another member has learned" in note for note in first.notes)


@pytest.mark.long
def test_a_trainer_that_takes_over_from_one_that_left_learns_what_is_left(broker, topic, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    broker.send(topic, messages(0, 1_000), partition=0)
    first = Member(broker.servers, topic, one)
    until(lambda: learned(one) == 1_000)
    first.leave()
    assert broker.committed(f"{topic}-trainers", topic, 2) == [1_000, 0]
    broker.send(topic, messages(1_000, 1_500), partition=1)
    second = Member(broker.servers, topic, two)
    until(lambda: learned(two) == 500)
    second.leave()
    assert sights(one, two) == {1: 1_500}


@pytest.mark.long
def test_trainers_that_share_a_topic_learn_each_message_once_between_them(tmp_path):
    with mock_cluster() as broker:
        share(broker, "shared", tmp_path, visits=3)

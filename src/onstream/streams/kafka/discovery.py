"""Which partitions a stream has, and which of them are new."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from onstream.contracts import Positions
from onstream.errors import StreamError
from onstream.streams.kafka.client import name_of, place_of
from onstream.streams.kafka.offsets import Start

if TYPE_CHECKING:
    from confluent_kafka import Consumer

    from onstream.streams.kafka.stream import Kafka

__all__ = ["partitions_of", "starts_of"]

_UNKNOWN = ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC")


def partitions_of(consumer: Consumer, stream: Kafka, known: Sequence[str], timeout_s: float) -> list[str]:
    """Return the partitions of a stream that are there now.

    Parameters
    ----------
    consumer : Consumer
    stream : Kafka
    known : sequence of str
        Partitions that were there before: brokers that have just been started may not know their topics yet.
    timeout_s : float

    Raises
    ------
    StreamError
        If there is no such topic or partition.
    confluent_kafka.KafkaException
        If the broker does not answer, or not yet.
    """
    from confluent_kafka import KafkaException

    names = stream.topics
    if len(names) == 1 and not names[0].startswith("^"):
        metadata = consumer.list_topics(names[0], timeout=timeout_s)
    else:
        metadata = consumer.list_topics(timeout=timeout_s)
    topics_before = {place_of(name)[0] for name in known}
    found: list[str] = []
    for wanted in names:
        is_pattern = wanted.startswith("^")
        matching = [t for t in metadata.topics if (re.match(wanted, t) if is_pattern else t == wanted)]
        if not matching and not is_pattern:
            raise StreamError(_no_topic(stream, wanted, sorted(metadata.topics)))
        for topic in matching:
            about = metadata.topics[topic]
            if about.error is not None:
                if about.error.name() in _UNKNOWN and topic not in topics_before:
                    raise StreamError(_no_topic(stream, wanted, []))
                raise KafkaException(about.error)
            found += [name_of(topic, number) for number in sorted(about.partitions)]
    return list(dict.fromkeys(_chosen(stream, found)))


def starts_of(
    stream: Kafka, partitions: Sequence[str], known: Positions, *, later: bool = False
) -> dict[str, Start]:
    """Return where each partition begins that has no position.

    Of one that came up since reading began, nothing was missed before its first message: one with a higher number
    than any that is known of its topic, one of a new topic that matches a pattern, and any that was found `later`.
    """
    highest: dict[str, int] = {}
    for name in known:
        topic, number = place_of(name)
        highest[topic] = max(number, highest.get(topic, 0))
    found: dict[str, Start] = {}
    for name in partitions:
        topic, number = place_of(name)
        is_new = number > highest[topic] if topic in highest else bool(known) and topic not in stream.topics
        found[name] = "earliest" if is_new or later else stream.start
    return found


def _chosen(stream: Kafka, partitions: list[str]) -> list[str]:
    """Return those of the partitions that the user has named."""
    chosen = stream.partitions
    if not isinstance(chosen, tuple):
        return partitions
    there = {place_of(name)[1] for name in partitions}
    missing = sorted(set(chosen) - there)
    if missing and partitions:
        raise StreamError(f"{stream.topic!r} has no partition {missing[0]}; it has {len(there)} partitions")
    return [name for name in partitions if place_of(name)[1] in chosen]


def _no_topic(stream: Kafka, topic: str, there: Sequence[str]) -> str:
    others = [name for name in there if not name.startswith("_")]
    has = f"; there are {', '.join(map(repr, others[:10]))}" if others else ""
    return f"Kafka at {stream.servers!r} has no topic {topic!r}{has}"

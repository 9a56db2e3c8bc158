"""What is said to librdkafka: the settings of the user beside ours, with no secret told to anyone else."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from onstream.errors import JobError, MissingExtraError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Producer, TopicPartition

__all__ = ["ClientConfig", "name_of", "new_consumer", "new_producer", "place_of", "topic_partition"]

# librdkafka speaks to Python's logging, and is silent where the program has set up none.
_log = logging.getLogger("onstream.kafka")
_log.addHandler(logging.NullHandler())

# Settings that other arguments decide, and which.
_OWNED = {
    "bootstrap.servers": "servers=",
    "metadata.broker.list": "servers=",
    "group.id": "group=",
    "isolation.level": "isolation=",
    "auto.offset.reset": "start= and on_loss=",
    "transactional.id": "name=",
    "enable.idempotence": "",
    "enable.auto.commit": "",
    "enable.auto.offset.store": "",
    "auto.commit.enable": "",
    "offset.store.method": "",
    "enable.partition.eof": "",
    "partition.assignment.strategy": "",
    "error_cb": "",
    "on_commit": "",
    "logger": "",
}

_SECRET = ("password", "secret", "key.pem", "token", "sasl.oauthbearer", "jaas", "certificate", "username")


class ClientConfig(Mapping[str, Any]):
    """Settings that are handed to librdkafka as they are, such as those of SASL and TLS.

    Parameters
    ----------
    settings : mapping of str to value
        By the names of librdkafka's CONFIGURATION.md.

    Raises
    ------
    JobError
        If onstream decides one of them; the message says what to use in its place.

    Examples
    --------
    >>> ClientConfig({"security.protocol": "SASL_SSL", "sasl.password": "hush"})
    {'security.protocol': 'SASL_SSL', 'sasl.password': '***'}
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if not isinstance(name, str):
                raise JobError(f"config: names of settings are text, got {name!r}")
            if name in _OWNED:
                instead = f"use {_OWNED[name]} in its place" if _OWNED[name] else "it cannot be another"
                raise JobError(f"config: {name!r} is decided by onstream; {instead}")
        self._settings = dict(settings)

    def __getitem__(self, name: str) -> Any:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __hash__(self) -> int:
        return hash(frozenset(self._settings))

    def __repr__(self) -> str:
        return repr({n: "***" if any(s in n for s in _SECRET) else v for n, v in self._settings.items()})


def new_consumer(servers: str, group: str | None, config: ClientConfig, ours: Mapping[str, Any]) -> Consumer:
    """Return a consumer; settings of `config` come before ours.

    Raises
    ------
    MissingExtraError
        If confluent-kafka is not installed.
    JobError
        If librdkafka does not take a setting.
    """
    settings = {
        # Only a consumer that subscribes, or commits, is known to the broker by the name of a group.
        "group.id": "onstream" if group is None else group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        **ours,
    }
    # The newer protocol of groups leaves assignment to the broker.
    if config.get("group.protocol") != "consumer":
        settings["partition.assignment.strategy"] = "cooperative-sticky"
    found: Consumer = _new("Consumer", servers, settings | dict(config))
    return found


def new_producer(servers: str, config: ClientConfig, ours: Mapping[str, Any]) -> Producer:
    """Return a producer; see `new_consumer`."""
    found: Producer = _new("Producer", servers, {"enable.idempotence": True, **ours, **config})
    return found


def topic_partition(partition: str, offset: int | None = None) -> TopicPartition:
    """Return a partition of positions, such as "clicks/3", as confluent-kafka has it."""
    import confluent_kafka

    topic, number = place_of(partition)
    if offset is None:
        return confluent_kafka.TopicPartition(topic, number)
    return confluent_kafka.TopicPartition(topic, number, offset)


def name_of(topic: str, number: int) -> str:
    """Return how positions call a partition. No topic has a "/" in its name."""
    return f"{topic}/{number}"


def place_of(partition: str) -> tuple[str, int]:
    """Return topic and number of a partition of positions."""
    topic, _, number = partition.rpartition("/")
    return topic, int(number)


def _new(kind: str, servers: str, settings: Mapping[str, Any]) -> Any:
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingExtraError("Kafka needs confluent-kafka: pip install 'onstream[kafka]'") from error
    try:
        client = getattr(confluent_kafka, kind)({"bootstrap.servers": servers, **settings, "logger": _log})
    except (confluent_kafka.KafkaException, ValueError, TypeError) as error:
        said = error.args[0] if error.args else error
        text = said.str() if isinstance(said, confluent_kafka.KafkaError) else said
        raise JobError(f"Kafka: the client's settings are not valid: {text}") from error
    return client

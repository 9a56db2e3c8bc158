"""Where requests come from and scores go, as people write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from onstream.errors import JobError
from onstream.serving.scoring.kafka_work import KafkaToLogWork, KafkaWork, LogToKafkaWork
from onstream.serving.scoring.work import LogWork, Work
from onstream.streams import Kafka, KafkaWriter, Log
from onstream.streams.formats import ArrowIpc, Csv, Json

__all__ = ["open_work"]

_KAFKA = "kafka://"
_FORMATS = {"json": Json, "csv": Csv, "arrow": ArrowIpc}


def open_work(
    source: str,
    target: str,
    group: str,
    *,
    start: str,
    follow: bool,
    lease_s: float,
    keys: Sequence[str] = (),
) -> Work:
    """Open requests and the place of their results.

    Parameters
    ----------
    source, target : str
        The file of an embedded log, or "kafka://host:port/topic". The topic of requests holds JSON objects, or with
        "?format=csv" or "?format=arrow" what those formats read; other options go to librdkafka.
    group : str
        Who has the same shares the requests.
    start : {"latest", "earliest"}
    follow : bool
        Whether to wait for more requests at the end.
    lease_s : float
        As `LogWork` says.
    keys : sequence of str
        Columns of the requests that their results keep; the first is the key of a result's message.

    Raises
    ------
    JobError
        If a place cannot be used.
    StreamError
        If a log cannot be opened.
    """
    if start not in ("latest", "earliest"):
        raise JobError(f"--start is 'latest' or 'earliest', got {start!r}")
    if not source.startswith(_KAFKA):
        if not Path(source).exists():
            raise JobError(f"there is no log {source!r} to score")
        options: dict[str, Any] = {"start": start, "follow": follow, "lease_s": lease_s}
        if not target.startswith(_KAFKA):
            return LogWork(Log(source), Log(target), group, **options)
        servers, topic, asked = _place(target)
        writer = KafkaWriter(topic, servers=servers, config=asked)
        return LogToKafkaWork(Log(source), writer, group, keys=keys, **options)
    stream = _requests(source, group, start=start, follow=follow)
    if not target.startswith(_KAFKA):
        return KafkaToLogWork(stream, Log(target))
    servers, topic, _ = _place(target)
    if servers != stream.servers:
        raise JobError(
            f"a transaction is made by one cluster: --from is at {stream.servers!r}, --to at {servers!r}"
        )
    return KafkaWork(stream, topic, keys)


def _requests(text: str, group: str, *, start: str, follow: bool) -> Kafka:
    servers, topic, asked = _place(text)
    name = asked.pop("format", "json")
    if name not in _FORMATS:
        raise JobError(f"{text!r}: the format is one of {', '.join(_FORMATS)}, got {name!r}")
    return Kafka(
        topic,
        servers=servers,
        group=group,
        format=_FORMATS[name](),
        start=start,
        end=None if follow else "now",
        config=asked,
    )


def _place(text: str) -> tuple[str, str, dict[str, str]]:
    """Return servers, topic and options of a topic as it is written."""
    found = urlsplit(text)
    topic = unquote(found.path.strip("/"))
    if not found.netloc or not topic or "/" in topic:
        raise JobError(f"a topic is written kafka://host:port/topic, got {text!r}")
    return found.netloc, topic, dict(parse_qsl(found.query))

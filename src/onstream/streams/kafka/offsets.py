"""Where to begin in each partition, and what retention has taken."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from onstream.contracts import Positions, Reject
from onstream.errors import JobError, StreamError
from onstream.streams.kafka.client import name_of, place_of, topic_partition

if TYPE_CHECKING:
    from confluent_kafka import Consumer

__all__ = ["Begin", "LossPolicy", "Start", "begin_at", "check_start", "lost", "start_ms"]

Start: TypeAlias = str | datetime | Mapping[str, int]
LossPolicy: TypeAlias = str

# As the protocol of Kafka has them (ListOffsets, KIP-79): times that mean the oldest and the newest offset.
_OLDEST = -2
_NEWEST = -1


@dataclass(frozen=True, slots=True)
class Begin:
    """Where reading of a partition begins.

    Attributes
    ----------
    partition : str
    offset : int
    rejects : tuple of Reject
        What tells of messages that are lost.
    not_before_ms : int or None
        Messages with timestamps before this are passed over, up to the first that is not.
    """

    partition: str
    offset: int
    rejects: tuple[Reject, ...] = ()
    not_before_ms: int | None = None


def check_start(start: Start) -> Start:
    """Return a starting point as it is kept; raise JobError if it is none."""
    if isinstance(start, Mapping):
        for partition, offset in start.items():
            topic, slash, number = str(partition).rpartition("/")
            if not (topic and slash and number.isdecimal()):
                raise JobError(f"start: a partition is written 'topic/number', got {partition!r}")
            if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
                raise JobError(f"start: the offset of {partition!r} must be 0 or above, got {offset!r}")
        return dict(start)
    if isinstance(start, datetime) or start in ("earliest", "latest"):
        return start
    if isinstance(start, str):
        try:
            datetime.fromisoformat(start)
        except ValueError:
            pass
        else:
            return start
    raise JobError(
        f"start must be 'earliest', 'latest', a time such as '2026-01-31T12:00:00+00:00', or a mapping such as "
        f"{{'clicks/0': 17}}, got {start!r}"
    )


def start_ms(start: Start) -> int | None:
    """Return a starting time in milliseconds since 1970, None for other starting points. UTC, if no zone is said."""
    if isinstance(start, str) and start not in ("earliest", "latest"):
        start = datetime.fromisoformat(start)
    if not isinstance(start, datetime):
        return None
    if start.tzinfo is None:
        start = start.replace(tzinfo=UTC)
    return math.ceil(start.timestamp() * 1000)


def begin_at(
    consumer: Consumer,
    partitions: Sequence[str],
    known: Positions,
    starts: Mapping[str, Start],
    on_loss: LossPolicy,
    timeout_s: float,
) -> list[Begin]:
    """Return where to begin in each of `partitions`.

    Parameters
    ----------
    consumer : Consumer
    partitions : sequence of str
    known : Positions
        Where to read on in partitions that were read before.
    starts : mapping of str to Start
        Where each partition begins if it was not.
    on_loss : {"raise", "skip"}
    timeout_s : float

    Raises
    ------
    StreamError
        If the next message to read is gone.
    confluent_kafka.KafkaException
        If the broker does not answer.
    """
    oldest = _offsets(consumer, dict.fromkeys(partitions, _OLDEST), timeout_s)
    asked: dict[str, int] = {}
    wanted = {}
    for name in partitions:
        start = starts[name]
        since = start_ms(start)
        if name in known:
            wanted[name] = known[name]
        elif isinstance(start, Mapping) and name in start:
            wanted[name] = start[name]
        elif start == "latest":
            asked[name] = _NEWEST
        elif since is not None:
            asked[name] = since
        else:
            wanted[name] = oldest[name]
    found = _offsets(consumer, asked, timeout_s)
    # No message is as new as that: begin with the next one to come.
    past = {name: _NEWEST for name, offset in found.items() if offset < 0}
    late = _offsets(consumer, past, timeout_s)
    begins = []
    for name in partitions:
        offset = late.get(name, found.get(name, wanted.get(name, 0)))
        rejects: tuple[Reject, ...] = ()
        if offset < oldest[name]:
            rejects = (lost(name, offset, oldest[name], on_loss),)
            offset = oldest[name]
        by_time = name in found and name not in late
        begins.append(Begin(name, offset, rejects, start_ms(starts[name]) if by_time else None))
    return begins


def lost(partition: str, wanted: int, oldest: int, on_loss: LossPolicy) -> Reject:
    """Tell of messages that retention has taken before they were read.

    Raises
    ------
    StreamError
        Unless the user said to go on without them.
    """
    topic, number = place_of(partition)
    if on_loss == "raise":
        raise StreamError(
            f"topic {topic!r}, partition {number}: offset {wanted:,} is to be read next, but the oldest that is left "
            f"is {oldest:,}: {oldest - wanted:,} are lost, since retention of the topic has passed them; "
            f"on_loss='skip' goes on with what is left"
        )
    return Reject(
        partition, wanted, "messages lost: retention has passed them", f"offsets {wanted} to {oldest - 1}"
    )


def _offsets(consumer: Consumer, times: Mapping[str, int], timeout_s: float) -> dict[str, int]:
    """Return the first offset at or after a time in ms, for each partition; -1 where there is none."""
    if not times:
        return {}
    from confluent_kafka import KafkaException

    asked = [topic_partition(name, time) for name, time in times.items()]
    found = {}
    for answer in consumer.offsets_for_times(asked, timeout=timeout_s):
        if answer.error is not None:
            raise KafkaException(answer.error)
        found[name_of(answer.topic, answer.partition)] = answer.offset
    return found

"""Kafka as a stream."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pyarrow as pa

from onstream.contracts import Chunk, Positions
from onstream.errors import JobError
from onstream.streams.formats import Format, Json
from onstream.streams.kafka.client import ClientConfig
from onstream.streams.kafka.decode import METADATA, metadata_schema
from onstream.streams.kafka.offsets import Start, check_start
from onstream.streams.kafka.reading import Reading
from onstream.streams.pace import SYSTEM_CLOCK, Clock, EventPace, Rate, check_rate, pace

__all__ = ["Kafka"]


@dataclass
class _Run:
    """What a stream that is being read shares with the trainer. Never part of its description."""

    reading: Reading | None = None
    kept: Positions | None = None
    held: frozenset[str] = frozenset()
    find: Callable[[Sequence[str]], Positions] | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, init=False)
class Kafka:
    r"""Read topics of Kafka, or of any broker that speaks its protocol.

    Parameters
    ----------
    topic : str or sequence of str
        One or several; one that begins with ``^`` is a regular expression that the beginning of a topic's name
        must match, and topics that appear later are read too.
    servers : str, default "127.0.0.1:9092"
        Where to ask for brokers first: ``host:port``, several with commas between.
    format : Format, default `Json` ()
        How messages become rows.
    group : str, optional
        The consumer group. How far a checkpoint has come is committed to it, for tools that show lag. Members of one
        group share the partitions, unless `partitions` is given.
    partitions : "all" or sequence of int, optional
        Read these partitions of each topic. By default all; with a group, those that the group assigns.
    start : "earliest", "latest", datetime, str or mapping, default "earliest"
        Where to begin in partitions of which no checkpoint has a position, nor the group where it is asked: a time
        (in ISO format; UTC, if it names no zone) begins with the first message that has this time or a later one; a
        mapping such as ``{"clicks/0": 17}`` gives offsets, and partitions that it does not name begin at the earliest.
    end : "now", optional
        Read what is there and end, in place of following.
    on_loss : {"raise", "skip"}, default "raise"
        What to do when retention has passed messages that were to be read: raise StreamError, or go on with the
        oldest that is left and tell of the gap in a note and a reject.
    isolation : {"read_committed", "read_uncommitted"}, default "read_committed"
        Whether messages of open and aborted transactions are kept back.
    metadata : sequence of str, optional
        Columns to add: of "_key" (binary), "_timestamp" (UTC, milliseconds), "_headers" (map), "_topic",
        "_partition", "_offset".
    patience_s : float, default 300
        How long to wait for brokers that do not answer, and for a checkpoint before partitions are given up.
    rate : float or EventPace, optional
        Give rows no faster than this: rows a second, or as their event times went by.
    config : mapping, optional
        Further settings of librdkafka, such as those of SASL and TLS; see its CONFIGURATION.md.
    clock : Clock, optional
        Time for `rate`.

    Raises
    ------
    JobError
        If an argument cannot be; `config` may not hold what other arguments say.
    MissingExtraError
        While reading: if confluent-kafka is not installed.
    StreamError
        While reading: if there is no such topic, access is refused, retention has passed what was to be read, or
        no broker answers for `patience_s`.

    Notes
    -----
    A partition is called "topic/number" and its position is the offset to read next; where messages hold many rows,
    "topic/number#rows" is how many rows of that message were read. Positions live in the checkpoint, so what is
    learned and how far it was read are one fact: nothing is lost and nothing learned twice, however the trainer is
    killed. Rows of a partition come in order; how partitions mix is chance. Messages without a value are no rows.

    With a group that assigns partitions, a partition is read from the further of two positions: the checkpoint's and
    the group's. Before one is given up, all that was read of it is learned, kept in a checkpoint and committed. So
    trainers with checkpoints of their own share a topic, each message learned by one of them, as long as members come
    and go in order. When one dies, or stands still for longer than the group waits, messages between its last commit
    and its last checkpoint may be learned by two; none is lost. The group does not say who learned what it has
    committed: a checkpoint that is older than the group's position, as after a rollback, goes on from the group's. To
    learn what lies between again, use another group.

    With a group and `partitions`, positions of a checkpoint come first, however old they are; the group is asked where
    there are none at all.

    Fetching goes on in a thread while rows are learned, up to 64 MiB ahead and what librdkafka holds.

    Examples
    --------
    >>> clicks = Kafka("clicks", servers="127.0.0.1:9092", format=Json({"user": "int64", "click": "int8"}))
    >>> clicks.schema().names
    ['user', 'click']
    """

    topic: str | tuple[str, ...]
    servers: str
    format: Format
    group: str | None
    partitions: Literal["all"] | tuple[int, ...] | None
    start: Start
    end: Literal["now"] | None
    on_loss: Literal["raise", "skip"]
    isolation: Literal["read_committed", "read_uncommitted"]
    metadata: tuple[str, ...]
    patience_s: float
    rate: Rate | None
    config: ClientConfig
    clock: Clock
    _run: _Run = field(compare=False, repr=False)

    def __init__(
        self,
        topic: str | Sequence[str],
        *,
        servers: str = "127.0.0.1:9092",
        format: Format | None = None,
        group: str | None = None,
        partitions: Literal["all"] | Sequence[int] | None = None,
        start: Start = "earliest",
        end: Literal["now"] | None = None,
        on_loss: Literal["raise", "skip"] = "raise",
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
        metadata: Sequence[str] = (),
        patience_s: float = 300.0,
        rate: Rate | None = None,
        config: Mapping[str, Any] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Check and keep the arguments."""
        facts = {
            "topic": topic if isinstance(topic, str) else tuple(topic),
            "servers": servers,
            "format": Json() if format is None else format,
            "group": group,
            "partitions": partitions if partitions is None or partitions == "all" else _numbers(partitions),
            "start": check_start(start),
            "end": end,
            "on_loss": on_loss,
            "isolation": isolation,
            "metadata": tuple(metadata),
            "patience_s": patience_s,
            "rate": rate,
            "config": config if isinstance(config, ClientConfig) else ClientConfig(config or {}),
            "clock": clock,
            "_run": _Run(),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)
        self._check()

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics and patterns, as a tuple."""
        return (self.topic,) if isinstance(self.topic, str) else self.topic

    @property
    def shared(self) -> bool:
        """Whether a group assigns the partitions."""
        return self.group is not None and self.partitions is None

    @property
    def live(self) -> bool:
        """Whether it follows its topics, gives rows at a pace, or may have to wait for others of its group."""
        return self.end is None or self.rate is not None or self.shared

    @property
    def notes(self) -> list[str]:
        """What there is to tell: sentences that whoever tells them takes away."""
        return self._run.notes

    def select(self, names: Iterable[str]) -> Kafka:
        """Return the same stream, decoding only these of its columns."""
        chosen = list(dict.fromkeys(names))
        if isinstance(self.rate, EventPace):
            chosen.append(self.rate.column)
        metadata = [name for name in self.metadata if name in chosen]
        return self.replace(
            format=self.format.select([n for n in chosen if n not in metadata]), metadata=metadata
        )

    def replace(self, **changes: Any) -> Kafka:
        """Return the same stream with some of its settings changed, checked as all settings are."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("_")}
        return Kafka(**(settings | changes))

    def peek(self) -> Kafka:
        """Return the same stream for a look at its beginning, which no group hears of."""
        return self.replace(group=None)

    def schema(self) -> pa.Schema:
        """Return the columns, as far as the format knows them before the first message."""
        found = self.format.schema()
        for one in metadata_schema(self.metadata):
            found = found.append(one)
        return found

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        """Yield chunks of at most `max_rows` rows, from `positions` on, until the end or until `stop` is set.

        Notes
        -----
        Large chunks are faster: 16384 rows is a good number. `stop` is heeded within 0.1 s.
        """
        chunks = self._read(dict(positions), max_rows, stop)
        return chunks if self.rate is None else pace(chunks, self.rate, stop, self.clock)

    def behind(self, positions: Positions) -> tuple[int, str] | None:
        """Return how many messages lie after `positions` in the partitions that are read; None if it is unknown."""
        found = self._run.reading.behind(positions) if self._run.reading else None
        return None if found is None else (found, "messages")

    def hold(self, partitions: Collection[str]) -> None:
        """Give no more rows of these partitions until called again without them, from any thread."""
        self._run.held = frozenset(partitions)
        if self._run.reading is not None:
            self._run.reading.hold(partitions)

    def expected_partitions(self) -> Collection[str]:
        """Return the partitions that are read, as soon as they are known."""
        return () if self._run.reading is None else self._run.reading.own

    @property
    def stalled(self) -> bool:
        """Whether fetching is paused because the learner takes nothing."""
        return self._run.reading is not None and self._run.reading.stalled

    @property
    def member(self) -> object | None:
        """The newest membership of the group, for `KafkaWriter.write`; None before the group has answered."""
        return None if self._run.reading is None else self._run.reading.member

    @property
    def failure(self) -> BaseException | None:
        """Why nothing more can be read, also before `read` raises it; None as long as all is well."""
        return None if self._run.reading is None else self._run.reading.failure

    def resume_from(self, find: Callable[[Sequence[str]], Positions]) -> None:
        """Ask `find` for positions whenever partitions are about to be read: before them, all is done.

        For those who keep positions elsewhere than in a checkpoint. Partitions are read from the furthest of what is
        known. Called in a thread of the stream.
        """
        self._run.find = find

    def kept(self, positions: Positions) -> None:
        """Take note that a checkpoint with these positions is durable, and commit them to the group."""
        self._run.kept = dict(positions)
        if self._run.reading is not None:
            self._run.reading.kept(positions)

    def asks(self, positions: Positions) -> bool:
        """Return whether partitions are to be given up that are learned up to `positions`, and not yet kept."""
        return self._run.reading is not None and self._run.reading.asks(positions)

    def release(self) -> None:
        """Commit what is durable and leave the group: nothing more will be kept."""
        if self._run.reading is not None:
            self._run.reading.close()
        self._run.kept = None

    def _read(self, positions: Positions, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        run = self._run
        reading = Reading(self, positions, run.kept, max_rows, run.notes.append, run.find)
        run.reading = reading
        reading.hold(run.held)
        yield from reading.chunks(stop)

    def _check(self) -> None:
        """Raise JobError for arguments that cannot be."""
        topics = self.topics
        if not topics or not all(isinstance(name, str) and name for name in topics):
            raise JobError(f"topic must be a name, a pattern, or a list of them, got {self.topic!r}")
        for name in topics:
            if name.startswith("^"):
                try:
                    re.compile(name)
                except re.error as error:
                    raise JobError(
                        f"topic: the pattern {name!r} is no regular expression: {error}"
                    ) from error
        for name in ("servers", "group"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and not (name == "group" and value is None):
                raise JobError(f"{name} must be text, got {value!r}")
        choices = {
            "end": (None, "now"),
            "on_loss": ("raise", "skip"),
            "isolation": ("read_committed", "read_uncommitted"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise JobError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        if not isinstance(self.format, Format):
            raise JobError(f"format must be such as Json(), got {self.format!r}")
        for name in self.metadata:
            if name not in METADATA:
                raise JobError(f"metadata must be of {', '.join(METADATA)}; got {name!r}")
        if isinstance(self.patience_s, bool) or not self.patience_s > 0:
            raise JobError(f"patience_s must be above 0, got {self.patience_s!r}")
        if self.rate is not None:
            check_rate(self.rate)


def _numbers(partitions: Sequence[int]) -> tuple[int, ...]:
    """Return numbers of partitions, checked."""
    found = tuple(partitions)
    if not found or not all(type(number) is int and number >= 0 for number in found):
        raise JobError(f"partitions must be 'all' or a list of whole numbers, got {partitions!r}")
    return found

"""Writing messages: each once, and together with how far their sources were read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from onstream.contracts import Positions
from onstream.errors import FencedError, GroupChangedError, JobError, StreamError
from onstream.streams.kafka.client import ClientConfig, new_producer, topic_partition

if TYPE_CHECKING:
    from confluent_kafka import KafkaError

__all__ = ["KafkaWriter"]

_WAIT_S = 0.1
_TRANSACTION_S = 30.0
_FENCED = ("_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH")
_PUT_OUT = ("ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS", "FENCED_INSTANCE_ID")


class KafkaWriter:
    """Append messages to a topic.

    Parameters
    ----------
    topic : str
    servers : str, default "127.0.0.1:9092"
    name : str, optional
        Under which transactions are made (the "transactional.id"): one for each writer that may run at a time, the
        same when it is started again. Without it there are no transactions.
    patience_s : float, default 60
        How long to wait for brokers that do not answer.
    config : mapping, optional
        Further settings of librdkafka.

    Raises
    ------
    JobError
        If a setting cannot be.
    StreamError
        If no broker answers, or transactions are refused.

    Notes
    -----
    What one `write` appends is in the topic once, even where a connection is lost on the way (the producer is
    idempotent). With a name it is there whole or not at all, for whoever reads "read_committed", and `positions` are
    committed to the consumer's group with it, or not: so each source message has its results exactly once, provided
    that reading goes on from what the group has committed. A writer of the same name that starts later ends this one.
    """

    def __init__(
        self,
        topic: str,
        *,
        servers: str = "127.0.0.1:9092",
        name: str | None = None,
        patience_s: float = 60.0,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.topic = topic
        self._servers = servers
        self._name = name
        self._patience_s = patience_s
        ours: dict[str, Any] = {"delivery.timeout.ms": int(patience_s * 1000)}
        if name is not None:
            # What a writer that died leaves open keeps readers of the whole partition waiting for so long.
            ours = {
                "transactional.id": name,
                "transaction.timeout.ms": int(min(patience_s, _TRANSACTION_S) * 1000),
            }
        self._producer = new_producer(servers, ClientConfig(config or {}), ours)
        self._failed: KafkaError | None = None
        self._ended = False
        if name is not None:
            self._patiently(lambda: self._producer.init_transactions(self._patience_s))

    def write(
        self,
        values: Sequence[bytes | None],
        keys: Sequence[bytes | None] | None = None,
        *,
        positions: Positions | None = None,
        member: object | None = None,
    ) -> None:
        """Append messages; they are there when this returns, and `positions` are committed with them.

        Parameters
        ----------
        values : sequence of bytes or None
        keys : sequence of bytes or None, optional
            Messages of one key go to one partition.
        positions : Positions, optional
            How far their sources are read with these messages: "topic/partition" to the next offset.
        member : object, optional
            Of the group that `positions` are committed to, as `Kafka.member` tells.

        Raises
        ------
        FencedError
            If another writer has this name now, or a transaction lay open for so long that the broker ended it: this
            writer writes nothing more, a new one may.
        GroupChangedError
            If the group has changed since `member` was told: with a newer one the messages may be written again, if
            the partitions of `positions` are still read.
        StreamError
            If the messages were not appended; with a name, none of them is. They may be written again.
        """
        keyed = (
            list(zip(keys, values, strict=True)) if keys is not None else [(None, value) for value in values]
        )
        if self._name is None:
            if positions is not None:
                raise JobError(
                    "positions are committed with messages in a transaction; give the writer a name="
                )
            self._send(keyed)
            self._flush()
            return
        self._patiently(self._producer.begin_transaction)
        try:
            self._send(keyed)
            if positions:
                offsets = [topic_partition(p, at) for p, at in positions.items() if "#" not in p]
                self._patiently(
                    lambda: self._producer.send_offsets_to_transaction(offsets, member, self._patience_s)
                )
            self._patiently(lambda: self._producer.commit_transaction(self._patience_s))
        except StreamError:
            # A writer that was taken over has no transaction left to abort.
            if not self._ended:
                self._patiently(lambda: self._producer.abort_transaction(self._patience_s))
            raise

    def close(self) -> None:
        """Wait for what is on its way. Closing again does nothing."""
        self._producer.flush(self._patience_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, keyed: Sequence[tuple[bytes | None, bytes | None]]) -> None:
        """Hand messages to librdkafka, which sends them in the background."""
        from confluent_kafka import KafkaException

        self._failed = None
        for key, value in keyed:
            while True:
                try:
                    self._producer.produce(self.topic, value, key, on_delivery=self._delivered)
                    break
                except BufferError:
                    self._producer.poll(_WAIT_S)
                except KafkaException as error:
                    raise self._told(error.args[0]) from error
        self._producer.poll(0)

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failed = error

    def _flush(self) -> None:
        left = self._producer.flush(self._patience_s)
        if self._failed is not None:
            raise self._told(self._failed)
        if left:
            raise StreamError(
                f"Kafka at {self._servers!r}: {left} messages for {self.topic!r} were not taken within "
                f"{self._patience_s:g} s"
            )

    def _patiently(self, call: Callable[[], object]) -> None:
        """Make a call of a transaction, again where the broker says that this may help."""
        from confluent_kafka import KafkaException

        end = time.monotonic() + self._patience_s
        while True:
            try:
                call()
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > end:
                    raise self._told(error.args[0]) from error
                self._producer.poll(_WAIT_S)
            else:
                return

    def _told(self, error: KafkaError) -> StreamError:
        """Return an error as the user is to read it."""
        self._ended = self._ended or error.fatal()
        if error.name() in _PUT_OUT:
            return GroupChangedError(
                f"Kafka at {self._servers!r}: the group has changed, and goes on without the member that these "
                f"messages are written for: {error.str()} ({error.name()})"
            )
        if error.name() in _FENCED or (error.fatal() and "fenced" in error.str().lower()):
            self._ended = True
            return FencedError(
                f"Kafka at {self._servers!r}: another process writes as {self._name!r} now, or the transaction was "
                f"open for too long, so this writer may not write: {error.str()} ({error.name()})"
            )
        return StreamError(
            f"Kafka at {self._servers!r}: messages for {self.topic!r} were not written: "
            f"{error.str()} ({error.name()})"
        )

"""Scoring where requests or results are topics of Kafka."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Sequence

import orjson
import pyarrow as pa

from onstream.contracts import Positions
from onstream.errors import FencedError, GroupChangedError
from onstream.serving.scoring.kafka_requests import KafkaRequests
from onstream.serving.scoring.work import LogRequests, Piece
from onstream.streams import Kafka, KafkaWriter, Log
from onstream.streams.log import LogGroup

__all__ = ["KafkaToLogWork", "KafkaWork", "LogToKafkaWork"]

_TAKE_S = 0.05

_TABLE = """
CREATE TABLE IF NOT EXISTS scored (
    name TEXT NOT NULL,
    partition TEXT NOT NULL,
    next INTEGER NOT NULL,
    PRIMARY KEY (name, partition)
) WITHOUT ROWID
"""


class KafkaWork(KafkaRequests):
    """Requests of a consumer group, and a topic for their results.

    Parameters
    ----------
    source : Kafka
        With a group.
    target : str
        The topic of the results, at the same brokers.
    keys : sequence of str
        Columns of the requests that their results keep; the first is the key of a result's message.

    Notes
    -----
    Results are JSON objects. They, and how far the requests were read, are written in one transaction: whoever reads
    "read_committed" sees the result of each request exactly once, however many processes share the group and
    whichever of them die. A process that was put out of its group writes nothing.
    """

    def __init__(self, source: Kafka, target: str, keys: Sequence[str] = ()) -> None:
        self._key = keys[0] if keys else None
        self._name = f"{source.group}-{uuid.uuid4()}"
        self._target = target
        self._writer = self._new_writer(source)
        super().__init__(source)

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch], stop: threading.Event) -> bool:
        """Write the results of a piece; False if another process has its partition now, or `stop` came first.

        Raises
        ------
        StreamError
            If the results are not written, or the group cannot be heard any more.
        """
        keys, values = _messages(results, self._key)
        partition = piece.chunks[0].partition
        while True:
            member = self.source.member
            # The broker asks whether the member is of the group, and not whether the partition is the member's.
            if partition not in self.source.expected_partitions():
                return False
            try:
                self._writer.write(values, keys, positions=piece.proof, member=member)
            except GroupChangedError:
                if not self._settled(partition, member, stop):
                    return False
            except FencedError:
                if stop.is_set():
                    return False
                # Nobody else has this name: the broker has ended a transaction that lay open for too long.
                self._writer = self._new_writer(self.source)
            else:
                self.finish(piece.proof)
                return True

    def _settled(self, partition: str, member: object | None, stop: threading.Event) -> bool:
        """Wait until the group gives a newer membership or takes the partition away; False if `stop` came first."""
        while self.source.member is member and partition in self.source.expected_partitions():
            if (failure := self.source.failure) is not None:
                raise failure
            if stop.wait(_TAKE_S):
                return False
        return True

    def _new_writer(self, source: Kafka) -> KafkaWriter:
        return KafkaWriter(
            self._target,
            servers=source.servers,
            name=self._name,
            patience_s=source.patience_s,
            config=source.config,
        )

    def close(self) -> None:
        """Leave the group."""
        super().close()
        self._writer.close()


class KafkaToLogWork(KafkaRequests):
    """Requests of a consumer group, and an embedded log for their results.

    Parameters
    ----------
    source : Kafka
        With a group.
    target : Log
        Closed with this.

    Notes
    -----
    How far each partition is scored is kept in the file of the log, in a table `scored` (name, partition, next), and
    moves on in one transaction with the results, from where this process knows it to stand. So each request has its
    result exactly once, and a process that does not know yet that it lost a partition writes nothing.
    """

    def __init__(self, source: Kafka, target: Log) -> None:
        self._target = target
        self._known: Positions = {}
        with target.file.write() as connection:
            connection.execute(_TABLE)
        super().__init__(source, find=self._find)

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch], stop: threading.Event) -> bool:
        """Append the results of a piece; False if another process has done so."""
        [partition] = (name for name in piece.proof if "#" not in name)
        end = piece.proof[partition]
        known = self._known.get(partition)

        def move(connection: sqlite3.Connection) -> bool:
            if _scored(connection, str(self.source.group), partition) != known:
                return False
            row = (self.source.group, partition, end)
            connection.execute("INSERT OR REPLACE INTO scored VALUES (?, ?, ?)", row)
            return True

        if self._target.append_if(move, results) is None:
            return False
        self._known[partition] = end
        self.finish(piece.proof)
        return True

    def close(self) -> None:
        """Leave the group, and close the log."""
        super().close()
        self._target.close()

    def _find(self, partitions: Sequence[str]) -> Positions:
        """Return where the results of partitions end, and remember it as what is known of them."""
        with self._target.file.look() as connection:
            found = {name: _scored(connection, str(self.source.group), name) for name in partitions}
        for name, at in found.items():
            self._known.pop(name, None)
            if at is not None:
                self._known[name] = at
        return {name: at for name, at in found.items() if at is not None}


class LogToKafkaWork(LogRequests):
    """Requests of an embedded log, and a topic for their results.

    Parameters
    ----------
    source : Log
        Closed with this. Its file also keeps how far the group is.
    target : KafkaWriter
        Closed with this.
    group : str
    start, follow, lease_s
        As `LogRequests` takes them.
    keys : sequence of str
        As `KafkaWork` takes them.

    Notes
    -----
    Every request has its result at least once: again, if a process dies between sending results and noting that, or
    is thought dead while it sends them.
    """

    def __init__(
        self,
        source: Log,
        target: KafkaWriter,
        group: str,
        *,
        start: str | int = "latest",
        follow: bool = True,
        lease_s: float = 30.0,
        keys: Sequence[str] = (),
    ) -> None:
        self._key = keys[0] if keys else None
        self._writer = target
        super().__init__(source, LogGroup(source, source, group, start=start, lease_s=lease_s), follow=follow)

    def write(self, piece: Piece, results: Sequence[pa.RecordBatch], stop: threading.Event) -> bool:
        """Send the results of a piece; False if another process has sent them too."""
        keys, values = _messages(results, self._key)
        self._writer.write(values, keys)
        return self.group.done(piece.proof)

    def close(self) -> None:
        """Close the log, and wait for what is on its way."""
        super().close()
        self._writer.close()


def _messages(
    results: Sequence[pa.RecordBatch], key: str | None
) -> tuple[list[bytes | None] | None, list[bytes | None]]:
    """Return results as JSON objects, and the keys of their messages."""
    rows = [row for batch in results for row in batch.to_pylist()]
    values: list[bytes | None] = [orjson.dumps(row, default=str) for row in rows]
    return None if key is None else [_as_key(row[key]) for row in rows], values


def _as_key(value: object) -> bytes | None:
    """Return a value of a request as the key of a message."""
    if value is None or isinstance(value, bytes):
        return value
    return str(value).encode()


def _scored(connection: sqlite3.Connection, group: str, partition: str) -> int | None:
    row = connection.execute(
        "SELECT next FROM scored WHERE name = ? AND partition = ?", (group, partition)
    ).fetchone()
    return None if row is None else int(row[0])

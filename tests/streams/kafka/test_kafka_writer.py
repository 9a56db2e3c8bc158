"""What is written is there once, and how far its sources were read with it."""

import threading

import confluent_kafka
import pytest

from onstream import Kafka
from onstream.errors import FencedError, GroupChangedError, JobError, StreamError
from onstream.streams.formats import Json
from onstream.streams.kafka import KafkaWriter
from tests.streams.streamed import read, rows_of

ROW = Json({"n": "int64"})


def lines(*numbers: int) -> list[bytes]:
    return [b'{"n": %d}' % n for n in numbers]


def test_messages_are_there_when_writing_returns(broker, topic):
    with KafkaWriter(topic, servers=broker.servers) as writer:
        writer.write(lines(1, 2), [b"a", b"a"])
        chunks = read(Kafka(topic, servers=broker.servers, format=ROW, end="now", metadata=["_key"]))
        assert rows_of(chunks) == [{"n": 1, "_key": b"a"}, {"n": 2, "_key": b"a"}]
        with pytest.raises(JobError, match="give the writer a name="):
            writer.write(lines(3), positions={f"{topic}/0": 1})


def test_results_and_the_offsets_that_they_come_from_are_written_in_one_transaction(broker, topic):
    scores = broker.create(f"{topic}-scores")
    broker.send(topic, lines(*range(10)))
    source = Kafka(topic, servers=broker.servers, format=ROW, group=f"{topic}-scorers", partitions="all")
    stop = threading.Event()
    chunks = source.read({}, max_rows=4, stop=stop)
    with KafkaWriter(scores, servers=broker.servers, name=f"{topic}-scorer") as writer:
        done = 0
        while done < 8:
            chunk = next(chunks)
            if chunk.batch.num_rows:
                values = [b'{"n": %d}' % (n * n) for n in chunk.batch.column("n").to_pylist()]
                writer.write(values, positions={chunk.partition: chunk.next}, member=source.member)
                done += chunk.batch.num_rows
        with pytest.raises(StreamError, match=r"were not written: .*too large"):
            writer.write([b"x" * 2_000_000], positions={f"{topic}/0": 9}, member=source.member)
    stop.set()
    assert list(chunks) == []
    assert broker.committed(f"{topic}-scorers", topic, 1) == [8]
    found = rows_of(read(Kafka(scores, servers=broker.servers, format=ROW, end="now")))
    assert [row["n"] for row in found] == [n * n for n in range(8)]


def test_a_writer_is_ended_by_a_later_one_of_its_name(broker, topic):
    with KafkaWriter(topic, servers=broker.servers, name=f"{topic}-scorer", patience_s=10) as first:
        first.write(lines(1))
        with KafkaWriter(topic, servers=broker.servers, name=f"{topic}-scorer", patience_s=10) as second:
            second.write(lines(2))
            with pytest.raises(FencedError, match=r"another process writes as '.*-scorer' now"):
                first.write(lines(3))
            second.write(lines(4))
    found = rows_of(read(Kafka(topic, servers=broker.servers, format=ROW, end="now")))
    assert sorted(row["n"] for row in found) == [1, 2, 4]


def test_a_group_that_has_changed_is_told_apart_from_a_writer_that_was_ended(broker, topic, monkeypatch):
    class PutOut(confluent_kafka.Producer):
        """Hears once what a broker says of a member that is none any more; those for tests do not look."""

        told = False

        def send_offsets_to_transaction(self, *arguments):
            if not self.told:
                self.told = True
                error = confluent_kafka.KafkaError(22, "no such generation", txn_requires_abort=True)
                raise confluent_kafka.KafkaException(error)
            return super().send_offsets_to_transaction(*arguments)

    broker.send(topic, lines(1))
    source = Kafka(topic, servers=broker.servers, format=ROW, group=f"{topic}-readers")
    chunk = next(c for c in source.read({}, max_rows=4, stop=threading.Event()) if c.batch.num_rows)
    scores = broker.create(f"{topic}-scores")
    monkeypatch.setattr(confluent_kafka, "Producer", PutOut)
    with KafkaWriter(scores, servers=broker.servers, name=f"{topic}-scorer") as writer:
        place = {"positions": {chunk.partition: chunk.next}, "member": source.member}
        with pytest.raises(GroupChangedError, match=r"goes on without the member .* \(ILLEGAL_GENERATION\)"):
            writer.write(lines(1), **place)
        writer.write(lines(2), **place)
    source.release()
    assert rows_of(read(Kafka(scores, servers=broker.servers, format=ROW, end="now"))) == [{"n": 2}]

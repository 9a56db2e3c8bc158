"""What one writes by hand: confluent-kafka, a parser, hashing, and logistic regression in PyTorch."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.ipc
import torch
from confluent_kafka import Consumer, Message, TopicPartition
from torch import nn

from bench.data import COLUMNS

BATCH_SIZE = 2048
BITS = 22

Rows = Iterator[tuple[np.ndarray, np.ndarray]]


def messages(servers: str, topic: str, partitions: int, count: int) -> Iterator[list[Message]]:
    """Yield lists of messages from the beginning of a topic until there were `count`."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "glue",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    seen = 0
    while seen < count:
        found = consumer.consume(10_000, 0.1)
        good = [message for message in found if message.error() is None]
        seen += len(good)
        yield good
    consumer.close()


def consume(servers: str, topic: str, partitions: int, count: int) -> float:
    """Take the values of messages, and do nothing with them; return messages a second."""
    begin = time.perf_counter()
    for found in messages(servers, topic, partitions, count):
        [message.value() for message in found]
    return count / (time.perf_counter() - begin)


def json_rows(found: Sequence[Message]) -> Rows:
    """Parse objects one by one and hash each value."""
    mask = (1 << BITS) - 1
    rows = [orjson.loads(message.value()) for message in found]
    for first in range(0, len(rows), BATCH_SIZE):
        batch = rows[first : first + BATCH_SIZE]
        ids = np.array([[hash((i, row[c])) & mask for i, c in enumerate(COLUMNS)] for row in batch])
        yield ids, np.array([row["label"] for row in batch], np.float32)


def csv_rows(found: Sequence[Message]) -> Rows:
    """Parse each message by pandas."""
    for message in found:
        yield from _frame_rows(
            pd.read_csv(
                io.BytesIO(message.value()), names=["label", *COLUMNS], dtype=dict.fromkeys(COLUMNS, str)
            )
        )


def arrow_rows(found: Sequence[Message]) -> Rows:
    """Read each message by pyarrow."""
    for message in found:
        with pyarrow.ipc.open_stream(pa.py_buffer(message.value())) as reader:
            yield from _frame_rows(reader.read_all().to_pandas())


def _frame_rows(frame: pd.DataFrame) -> Rows:
    mask = np.uint64((1 << BITS) - 1)
    ids = np.stack(
        [
            pd.util.hash_array(frame[c].to_numpy(), categorize=False) * np.uint64(2 * i + 1) & mask
            for i, c in enumerate(COLUMNS)
        ],
        1,
    ).astype(np.int64)
    yield ids, frame["label"].to_numpy(np.float32)


def learn(
    servers: str,
    topic: str,
    partitions: int,
    count: int,
    parse: Callable[[Sequence[Message]], Rows],
    rows: int,
) -> float:
    """Learn logistic regression from `count` messages of `rows` rows in all; return examples a second."""
    weights = nn.EmbeddingBag(1 << BITS, 1, mode="sum", sparse=True)
    nn.init.zeros_(weights.weight)
    optimizer = torch.optim.Adagrad(weights.parameters(), lr=0.1, initial_accumulator_value=1.0)
    begin = time.perf_counter()
    for found in messages(servers, topic, partitions, count):
        for ids, labels in parse(found):
            optimizer.zero_grad()
            logits = weights(torch.from_numpy(ids)).squeeze(1)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels))
            loss.backward()
            optimizer.step()
    return rows / (time.perf_counter() - begin)

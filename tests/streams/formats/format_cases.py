"""Formats with messages of theirs, for what must hold of every format."""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import fastavro
import numpy as np
import pyarrow as pa
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from onstream.streams.formats import (
    ArrowIpc,
    Avro,
    Csv,
    Custom,
    Decoded,
    Format,
    Json,
    Libffm,
    Libsvm,
    Protobuf,
    VowpalWabbit,
)

ROWS = [{"user": i * 1_000_003, "word": f"w{i}é", "price": i / 4} for i in range(5)]

CLICK = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "user", "type": "long"},
        {"name": "word", "type": ["null", "string"]},
        {"name": "price", "type": "double"},
    ],
}


def click_descriptors() -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="click.proto", package="shop", syntax="proto3")
    file.message_type.add(name="Other")
    click = file.message_type.add(name="Click")
    for number, (name, kind) in enumerate(
        [("user", "INT64"), ("word", "STRING"), ("price", "DOUBLE")], start=1
    ):
        click.field.add(name=name, number=number, type=f"TYPE_{kind}", label="LABEL_OPTIONAL")
    return files.SerializeToString()


def click_class():
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(click_descriptors()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Click"))


def avro(schema, row) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
    return out.getvalue()


def arrow(batch: pa.RecordBatch, *, file: bool = False, compression: str | None = None) -> bytes:
    out = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(out, batch.schema, options=options) as writer:
        writer.write(batch)
    return out.getvalue()


def csv(rows) -> str:
    return "".join(f"{row['user']},{row['word']},{row['price']}\n" for row in rows)


def pair(message: bytes) -> dict:
    user, word, price = message.decode().split(";")
    return {"user": int(user), "word": word, "price": float(price)}


def pairs(messages: Sequence[bytes]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([pair(message) for message in messages])


@dataclass(frozen=True)
class Case:
    """A format, good messages with the rows of each, and bad ones."""

    format: Format
    good: list[bytes]
    rows: list[list[dict]]
    bad: list[bytes]


def cases() -> dict[str, Case]:
    types = {"user": "int64", "word": "string", "price": "double"}
    one = [[row] for row in ROWS]
    two = [ROWS[:2], ROWS[2:]]
    two_rows = [pa.RecordBatch.from_pylist(rows) for rows in two]
    texts = [f"{r['user']};{r['word']};{r['price']}".encode() for r in ROWS]
    clicks = [click_class()(**row).SerializeToString() for row in ROWS]
    records = [avro(CLICK, row) for row in ROWS]
    sparse = [{"label": 1.0, "indices": [3], "values": [0.5]}, {"label": -1.0, "indices": [], "values": []}]
    wide = [{"label": 1.0, "fields": [2], "indices": [3], "values": [0.5]}]
    words = {"label": 1.0, "weight": 2.0, "tag": "x", "a": ["b", "c"], "a.values": [1.0, 2.0]}
    return {
        "json": Case(
            Json(types),
            [json.dumps(row).encode() for row in ROWS],
            one,
            [
                b"",
                b"{",
                b'{"user": "x"}',
                b"[]",
                b'{"user":1}{"user":2}',
                b'{"word": "\xff"}',
                b'{"user":1}\n{"user":2}',
            ],
        ),
        "avro": Case(
            Avro(CLICK),
            records,
            one,
            [b"", records[1][:-1], records[1] + b"\0", b"\x0e\x08", b"\x0e\x02\x02\xff"],
        ),
        "framed avro": Case(
            Avro(registry={7: CLICK}),
            [b"\0\0\0\0\7" + record for record in records],
            one,
            [b"", records[0], b"\0\0\0\0\6" + records[0], b"\0\0\0\0\7", b"\0\0\0\0"],
        ),
        "protobuf": Case(
            Protobuf(click_descriptors(), "shop.Click"),
            clicks,
            one,
            [b"\xff", clicks[1][:-1], b"\x12\x01\xff"],
        ),
        "framed protobuf": Case(
            Protobuf(click_descriptors(), "shop.Click", framed=True),
            [b"\0\0\0\0\7\2\2" + click for click in clicks],
            one,
            [
                b"",
                clicks[0],
                b"\0\0\0\0\7\0" + clicks[0],
                b"\0\0\0\0\7\2\2\xff",
                b"\0\0\0\0\7\xff\xff\xff\xff\xff\xff",
            ],
        ),
        "csv": Case(
            Csv(types, column_names=["user", "word", "price"]),
            [csv(rows).encode() for rows in two],
            two,
            [b"1,2", b"x,y,z", b'1,"w,2', b"1,2,3,4", b"1,\xff,2"],
        ),
        "csv with a header": Case(
            Csv(types),
            [b"user,word,price\n" + csv(two[0]).encode(), b"user,word,price\r\n" + csv(two[1]).encode()],
            two,
            [b"user,user\n1,1\n", b"q\n1\n", b"\xff\n1\n", b"user,word,price\n1,2\n", b"user\n1.5\n"],
        ),
        "arrow": Case(
            ArrowIpc(types),
            [arrow(two_rows[0]), arrow(two_rows[1], file=True, compression="zstd")],
            two,
            [
                b"",
                b"ARROW1",
                arrow(two_rows[0])[:-20],
                arrow(two_rows[0]) + b"x",
                arrow(pa.record_batch({"q": [1]})),
            ],
        ),
        "vowpal wabbit": Case(
            VowpalWabbit(["a"]),
            [b"1 2.0 'x |a b c:2\n", b"\n1 2 x|a b |z 1\n\n1 2 x|a:2 b:0.5 c"],
            [[words], [words | {"a": ["b"], "a.values": [1.0]}, words]],
            [b"x", b"y |a b", b"1 |a b:x", b"1 |a \xff", b"1 |a :1"],
        ),
        "libsvm": Case(
            Libsvm(),
            [b"1 3:0.5\n-1\n", b"+1.0 3:.5\r\n\r\n-1 # 7:1"],
            [sparse, sparse],
            [b"x", b"1 2", b"1 a:2", b"1 2:nan"],
        ),
        "libffm": Case(
            Libffm(), [b"1 2:3:0.5"], [wide], [b"x", b"1 2:3", b"1 a:2:3", b"1 2:-2:3", b"1 2:3:"]
        ),
        "custom": Case(Custom(pair, types), texts, one, [b"", b"1;2", b"x;y;z", b"99999999999999999999;w;1"]),
        "batched custom": Case(Custom(pairs, types, batched=True), texts, one, [b"", b"1;2", b"x;y;z"]),
    }


def rows_of(decoded: Decoded) -> list[tuple[int, dict]]:
    """Return each row with the message that it came from, after what must hold of everything decoded."""
    decoded.batch.validate(full=True)
    assert decoded.sources.dtype == np.int64
    assert len(decoded.sources) == decoded.batch.num_rows
    assert np.all(np.diff(decoded.sources) >= 0)
    indices = [reject.index for reject in decoded.rejects]
    assert indices == sorted(indices)
    assert all(reject.reason and len(reject.value) <= 1000 for reject in decoded.rejects)
    return list(zip(decoded.sources.tolist(), decoded.batch.to_pylist(), strict=True))


def expected(rows: list[list[dict]], places: list[int]) -> list[tuple[int, dict]]:
    return [(place, row) for place, some in zip(places, rows, strict=True) for row in some]

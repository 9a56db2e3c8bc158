"""Messages in the Criteo layout to Arrow columns, a format at a time, beside the libraries alone, on one thread.

Run it: python -m bench.formats
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import fastavro
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
from google.protobuf import descriptor_pb2
from sklearn.datasets import load_svmlight_file
from vowpalwabbit import pyvw

from bench.common import Figure, compare, rate
from bench.data import CATEGORIES, INTEGERS, criteo
from onstream import ArrowIpc, Avro, Csv, Json, Libsvm, Protobuf, VowpalWabbit
from onstream.streams.formats import Format

ROWS = 16_384
ROWS_A_MESSAGE = 256
SLOW_ROWS = 1024
ROUNDS = 7

NAMES = ("label", *INTEGERS, *CATEGORIES)
SCHEMA = pa.schema([(name, pa.string() if name in CATEGORIES else pa.int64()) for name in NAMES])


def decoding(format: Format, messages: list[bytes], rows: int) -> Callable[[], float]:
    """Return a function that decodes the messages and returns rows a second."""

    def step() -> None:
        decoded = format.decode(messages)
        assert decoded.batch.num_rows == rows and not decoded.rejects

    return rate(step, rows, repeats=4)


def report(
    name: str, ours: Callable[[], float], library: str, peer: Callable[[], float], goal: str | None
) -> None:
    found = compare(ours, peer, rounds=ROUNDS, warmup=1)
    Figure(name, found.ours, "rows/s", library, found.peer, found.ratio, goal).report()


def bench_json(rows: list[dict]) -> None:
    messages = [json.dumps(row, separators=(",", ":")).encode() for row in rows]
    ours = decoding(Json(SCHEMA), messages, len(rows))
    name = "JSON messages of 40 fields"
    options = pyarrow.json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")

    def joined() -> None:
        text = b"\n".join(messages)
        read = pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1)
        pyarrow.json.read_json(pa.BufferReader(text), read_options=read, parse_options=options)

    report(name, ours, "pyarrow.json, joined messages", rate(joined, len(rows)), ">= 2")
    loads = rate(lambda: [orjson.loads(message) for message in messages], len(rows))
    report(name, ours, "orjson, to dictionaries only", loads, ">= 1")
    best = max(ours() for _ in range(ROUNDS))
    Figure(f"{name}, one thread", best, "rows/s", goal=">= 300000").report()


def bench_many_rows(table: pa.Table) -> None:
    batches = table.cast(SCHEMA).combine_chunks().to_batches(max_chunksize=ROWS_A_MESSAGE)
    texts, streams = [], []
    for batch in batches:
        text, stream = io.BytesIO(), io.BytesIO()
        plain = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
        pyarrow.csv.write_csv(batch, text, plain)
        texts.append(text.getvalue())
        with pa.ipc.new_stream(stream, batch.schema) as writer:
            writer.write(batch)
        streams.append(stream.getvalue())

    def joined() -> None:
        text = b"".join(texts)
        pyarrow.csv.read_csv(
            pa.BufferReader(text),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, column_names=NAMES, block_size=len(text) + 1
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=SCHEMA, strings_can_be_null=True),
        )

    def opened() -> None:
        pa.concat_batches([batch for stream in streams for batch in pa.ipc.open_stream(stream)])

    rows = table.num_rows
    name = f"messages of {ROWS_A_MESSAGE} rows of 40 columns"
    csv = decoding(Csv(SCHEMA, column_names=NAMES), texts, rows)
    report(f"CSV {name}", csv, "pyarrow.csv, joined messages", rate(joined, rows), ">= 1")
    arrow = decoding(ArrowIpc(SCHEMA), streams, rows)
    report(f"Arrow {name}", arrow, "pyarrow, without any checks", rate(opened, rows), None)


def bench_avro(rows: list[dict]) -> None:
    fields = [{"name": n, "type": "string" if n in CATEGORIES else ["null", "long"]} for n in NAMES]
    schema = {"type": "record", "name": "Row", "fields": fields}
    parsed = fastavro.parse_schema(schema)
    messages = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, row)
        messages.append(out.getvalue())

    def loop() -> None:
        found = [fastavro.schemaless_reader(io.BytesIO(message), parsed, None) for message in messages]
        pa.RecordBatch.from_pydict({name: [row[name] for row in found] for name in NAMES}, schema=SCHEMA)

    ours = decoding(Avro(schema), messages, len(rows))
    report("Avro messages of 40 fields", ours, "fastavro, a loop, to columns", rate(loop, len(rows)), ">= 5")


def bench_protobuf(rows: list[dict]) -> None:
    files = descriptor_pb2.FileDescriptorSet()
    message = files.file.add(name="row.proto", syntax="proto3").message_type.add(name="Row")
    for number, name in enumerate(NAMES, start=1):
        kind = "TYPE_STRING" if name in CATEGORIES else "TYPE_INT64"
        message.field.add(name=name, number=number, type=kind, label="LABEL_OPTIONAL")
    format = Protobuf(files.SerializeToString(), "Row")
    made = format._class
    messages = [made(**row).SerializeToString() for row in rows]

    def loop() -> None:
        found = []
        for text in messages:
            one = made.FromString(text)
            found.append({name: getattr(one, name) for name in NAMES})
        pa.RecordBatch.from_pylist(found, schema=SCHEMA)

    ours = decoding(format, messages, len(rows))
    report(
        "Protobuf messages of 40 fields", ours, "protobuf, a loop, to columns", rate(loop, len(rows)), ">= 1"
    )


def bench_sparse(rows: list[dict]) -> None:
    draw = np.random.default_rng(0)
    svm = []
    for row in rows:
        indices = np.sort(draw.choice(1_000_000, 39, replace=False))
        values = draw.random(39)
        svm.append(
            f"{row['label']} " + " ".join(f"{i}:{v:.4f}" for i, v in zip(indices, values, strict=True))
        )
    texts = ["\n".join(svm[i : i + ROWS_A_MESSAGE]).encode() for i in range(0, len(svm), ROWS_A_MESSAGE)]
    whole = "\n".join(svm).encode()
    load = rate(lambda: load_svmlight_file(io.BytesIO(whole)), len(rows))
    report(
        "libsvm lines of 39 values",
        decoding(Libsvm(), texts, len(rows)),
        "scikit-learn, one text",
        load,
        ">= 0.5",
    )

    words = [f"{2 * row['label'] - 1} |f " + " ".join(f"{n}={row[n]}" for n in NAMES[1:]) for row in rows]
    lines = [line.encode() for line in words]
    vw = pyvw.Workspace("--quiet --noop")

    def parse() -> None:
        for line in words[:SLOW_ROWS]:
            vw.finish_example(vw.parse(line))

    ours = decoding(VowpalWabbit(["f"]), lines, len(rows))
    report(
        "Vowpal Wabbit lines of 39 features", ours, "Vowpal Wabbit, a loop", rate(parse, SLOW_ROWS), ">= 1"
    )
    vw.finish()


def main() -> None:
    table = criteo(ROWS)
    rows = table.to_pylist()
    bench_json(rows)
    bench_many_rows(table)
    bench_avro(rows)
    bench_protobuf(rows)
    bench_sparse(rows)


if __name__ == "__main__":
    main()

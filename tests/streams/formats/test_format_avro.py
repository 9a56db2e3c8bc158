"""Avro messages, against fastavro."""

import datetime
import http.server
import io
import json
import threading
from decimal import Decimal

import fastavro
import pytest
from format_cases import CLICK, ROWS, avro, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream import core
from onstream.errors import JobError, ShapeError, StreamError
from onstream.streams.formats import Avro

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
LONGS = st.integers(-(2**63), 2**63 - 1)
INTS = st.integers(-(2**31), 2**31 - 1)

EVERYTHING = {
    "type": "record",
    "name": "Everything",
    "namespace": "test",
    "fields": [
        {"name": "flag", "type": "boolean"},
        {"name": "nothing", "type": "null"},
        {"name": "whole", "type": "int"},
        {"name": "long", "type": ["null", "long"]},
        {"name": "single", "type": "float"},
        {"name": "real", "type": ["double", "null"]},
        {"name": "raw", "type": "bytes"},
        {"name": "text", "type": "string"},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "click"]}},
        {"name": "again", "type": ["null", "Kind"]},
        {"name": "id", "type": {"type": "fixed", "name": "Id", "size": 4}},
        {"name": "tags", "type": {"type": "array", "items": ["null", "string"]}},
        {"name": "counts", "type": ["null", {"type": "map", "values": "long"}]},
        {"name": "number", "type": ["null", "int", "long", "double"]},
        {
            "name": "place",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Place",
                    "fields": [
                        {"name": "x", "type": "int"},
                        {"name": "path", "type": {"type": "array", "items": "test.Id"}},
                    ],
                },
            ],
        },
        {"name": "unlike", "type": ["string", "int"]},
        {"name": "last", "type": "string"},
    ],
}

OBJECTS = st.fixed_dictionaries(
    {
        "flag": st.booleans(),
        "nothing": st.none(),
        "whole": INTS,
        "long": st.none() | LONGS,
        "single": st.floats(width=32, allow_nan=False),
        "real": st.none() | st.floats(allow_nan=False),
        "raw": st.binary(max_size=20),
        "text": TEXTS,
        "kind": st.sampled_from(["view", "click"]),
        "again": st.sampled_from([None, "view", "click"]),
        "id": st.binary(min_size=4, max_size=4),
        "tags": st.lists(st.none() | TEXTS, max_size=4),
        "counts": st.none() | st.dictionaries(TEXTS, LONGS, max_size=3),
        "number": st.none() | INTS | st.floats(allow_nan=False),
        "place": st.none()
        | st.fixed_dictionaries({"x": INTS, "path": st.lists(st.binary(min_size=4, max_size=4), max_size=3)}),
        "unlike": TEXTS | INTS,
        "last": TEXTS,
    }
)


def as_row(written: dict) -> dict:
    row = {name: value for name, value in written.items() if name != "unlike"}
    row["counts"] = None if row["counts"] is None else list(row["counts"].items())
    row["number"] = None if row["number"] is None else float(row["number"])
    return row


@settings(max_examples=60)
@given(st.lists(OBJECTS, max_size=6))
def test_records_are_read_as_they_were_written(objects):
    decoded = Avro(EVERYTHING).decode([avro(EVERYTHING, one) for one in objects])
    assert rows_of(decoded) == list(enumerate(map(as_row, objects))) and not decoded.rejects


@settings(max_examples=60)
@given(OBJECTS, st.data())
def test_what_is_taken_of_mutated_bytes_fastavro_reads_alike(written, data):
    text = bytearray(avro(EVERYTHING, written))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    decoded = Avro(EVERYTHING).decode([bytes(text)])
    for _, row in rows_of(decoded):
        source = io.BytesIO(text)
        read = as_row(fastavro.schemaless_reader(source, fastavro.parse_schema(EVERYTHING), None))
        assert repr(row | {"counts": sorted(dict(row["counts"] or ()))}) == repr(
            read | {"counts": sorted(dict(read["counts"] or ()))}
        )
        assert source.read() == b""


def record(type_, name="a"):
    return {"type": "record", "name": "R", "fields": [{"name": name, "type": type_}]}


@pytest.mark.parametrize(
    ("type_", "text", "reason"),
    [
        ("boolean", b"\x02", "not an Avro record of its schema"),
        ("int", b"\x80\x80\x80\x80\x20", "not an Avro record of its schema"),
        ("long", b"\xff" * 9 + b"\x02", "not an Avro record of its schema"),
        ("long", b"\xff" * 20, "not an Avro record of its schema"),
        ("long", b"\xff", "the message ends within its Avro record"),
        ("double", b"1234567", "the message ends within its Avro record"),
        ("bytes", b"\x01", "not an Avro record of its schema"),
        ("bytes", b"\xfe\xff\xff\xff\x0fabc", "the message ends within its Avro record"),
        ("string", b"\x04\xff\xff", "a string of the Avro record is not UTF-8"),
        (["null", "int"], b"\x04", "not an Avro record of its schema"),
        (["null", "int"], b"\x01", "not an Avro record of its schema"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, b"\x02", "not an Avro record of its schema"),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, b"\x01", "not an Avro record of its schema"),
        (
            {"type": "array", "items": "int"},
            b"\xfe\xff\xff\xff\x0f\x02",
            "the message ends within its Avro record",
        ),
        ({"type": "array", "items": "int"}, b"\x01\x02\x02", "the message ends within its Avro record"),
        ({"type": "array", "items": "int"}, b"\xff" * 9 + b"\x01\x00", "not an Avro record of its schema"),
        ({"type": "map", "values": "null"}, b"\x02\x02\xff\x00", "a string of the Avro record is not UTF-8"),
        ("null", b"\x00", "the message goes on after its Avro record"),
    ],
)
def test_damage_is_told(type_, text, reason):
    decoded = Avro(record(type_)).decode([text])
    assert [reject.reason for reject in decoded.rejects] == [reason] and decoded.batch.num_rows == 0


def test_blocks_with_their_size_are_read():
    decoded = Avro(record({"type": "array", "items": "int"})).decode([b"\x01\x02\x0e\x02\x10\x00"])
    assert decoded.batch.to_pydict() == {"a": [[7, 8]]}


def test_logical_types_become_those_of_arrow():
    utc = datetime.UTC
    written = {
        "day": (("int", "date"), datetime.date(2024, 2, 29)),
        "time": (("int", "time-millis"), datetime.time(1, 2, 3, 4000)),
        "at": (("long", "timestamp-millis"), datetime.datetime(2024, 1, 1, tzinfo=utc)),
        "at_us": (("long", "timestamp-micros"), datetime.datetime(2024, 1, 1, 0, 0, 0, 7, tzinfo=utc)),
        "local": (("long", "local-timestamp-micros"), datetime.datetime(2024, 1, 1)),
    }
    fields = [
        {"name": n, "type": {"type": t, "logicalType": logical}} for n, ((t, logical), _) in written.items()
    ]
    schema = {"type": "record", "name": "R", "fields": fields}
    row = {name: value for name, (_, value) in written.items()}
    assert Avro(schema).decode([avro(schema, row)]).batch.to_pylist() == [row]


@given(st.lists(st.none() | st.decimals(-(10**12), 10**12, places=3), min_size=1, max_size=8))
def test_decimals_are_those_that_were_written(values):
    logical = {"logicalType": "decimal", "precision": 20, "scale": 3}
    schema = {
        "type": "record",
        "name": "R",
        "fields": [
            {"name": "a", "type": ["null", {"type": "bytes"} | logical]},
            {"name": "b", "type": ["null", {"type": "fixed", "name": "F", "size": 12} | logical]},
        ],
    }
    rows = [{"a": value, "b": value} for value in values]
    assert Avro(schema).decode([avro(schema, row) for row in rows]).batch.to_pylist() == rows


def test_a_decimal_that_is_none_costs_only_its_row():
    schema = record({"type": "bytes", "logicalType": "decimal", "precision": 3, "scale": 1})
    decoded = Avro(schema).decode(
        [b"\x02\x0f", b"\x00", b"\x06\x7f\xff\xff", b"\x22" + b"\1" * 17, b"\x02\xff"]
    )
    assert rows_of(decoded) == [(0, {"a": Decimal("1.5")}), (4, {"a": Decimal("-0.1")})]
    assert {r.reason for r in decoded.rejects} == {"column 'a': not a number"}


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ('"string"', "must be a record"),
        ("{", "not valid JSON"),
        (record({"type": "array", "items": "null"}), "values that take no bytes"),
        (
            record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}),
            "values that take no bytes",
        ),
        (record(["null", "R"]), "refers to itself"),
        (record("Unknown"), "does not declare"),
        (record({"type": "array"}), "without 'items'"),
        (record({"type": "enum", "name": "E"}), "must be a list of names"),
        (record({"type": "fixed", "name": "F", "size": -1}), "must be a number"),
        ({"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}] * 2}, "have one name"),
        ({"type": "record", "name": "R", "fields": [1]}, "no name or no type"),
        (record(7), "no type"),
        ("/does/not/exist.avsc", "cannot read"),
    ],
)
def test_schemas_that_cannot_be_columns_are_refused(schema, problem):
    with pytest.raises(JobError, match=problem):
        Avro(schema)


def test_large_and_deep_schemas_are_refused():
    deep = "int"
    for _ in range(70):
        deep = {"type": "array", "items": deep}
    with pytest.raises(JobError, match="nested deeper than 64"):
        Avro(record(deep))
    fields = [{"name": "a0", "type": record("int")}]
    for i in range(1, 20):
        inner = {
            "type": "record",
            "name": f"R{i}",
            "fields": [{"name": n, "type": f"R{i - 1}" if i > 1 else "R"} for n in "ab"],
        }
        fields.append({"name": f"a{i}", "type": inner})
    with pytest.raises(JobError, match="more than 20000 types"):
        Avro({"type": "record", "name": "Top", "fields": fields})
    with pytest.raises(JobError, match="give schema="):
        Avro()


def test_the_core_refuses_plans_that_do_not_fit():
    def plan(*child):
        return ("record", True, "struct", 0, [], [child])

    for child in (
        ("boolean", True, "int64", 0, [], []),
        ("string", True, "", 0, [], []),
        ("fixed", True, "fixed", 0, [], []),
        ("array", True, "list", 0, [], []),
        ("array", True, "list", 0, [], [("null", True, "", 0, [], [])]),
        (
            "union",
            True,
            "text",
            0,
            [],
            [("string", True, "text", 0, [], []), ("int", True, "int32", 0, [], [])],
        ),
        ("nonsense", True, "text", 0, [], []),
    ):
        with pytest.raises(ShapeError):
            core.decode_avro([b""], plan(*child))


# ------------------------------------------------------------------------------------ schema registry


NEWER = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "price", "type": "float"},
        {"name": "person", "type": "int"},
        {"name": "extra", "type": "string"},
    ],
}


def framed(id: int, schema, row) -> bytes:
    return b"\0" + id.to_bytes(4, "big") + avro(schema, row)


def test_messages_of_several_schemas_are_read_by_names_in_their_order(tmp_path):
    reader = json.loads(json.dumps(CLICK))
    reader["fields"][0]["aliases"] = ["person"]
    reader["fields"].append({"name": "source", "type": "string", "default": "web"})
    (tmp_path / "1.avsc").write_text(json.dumps(CLICK))
    (tmp_path / "2.avsc").write_text(json.dumps(NEWER))
    (tmp_path / "3.avsc").write_text("nonsense")
    messages = [
        framed(2, NEWER, {"price": 1.5, "person": 4, "extra": "x"}),
        framed(1, CLICK, ROWS[1]),
        framed(3, CLICK, ROWS[1]),
        framed(2, NEWER, {"price": 2.5, "person": 5, "extra": "x"}),
    ]
    decoded = Avro(reader, registry=tmp_path).decode(messages)
    assert rows_of(decoded) == [
        (0, {"user": 4, "word": None, "price": 1.5, "source": "web"}),
        (1, ROWS[1] | {"source": "web"}),
        (3, {"user": 5, "word": None, "price": 2.5, "source": "web"}),
    ]
    assert decoded.rejects[0].reason.startswith("schema 3 cannot be used")
    first = Avro(registry=tmp_path)
    assert first.schema().names == []
    assert first.decode(messages[1:]).batch.schema.names == ["user", "word", "price"]
    assert first.decode(messages[:1]).batch.to_pylist() == [{"user": None, "word": None, "price": 1.5}]
    with pytest.raises(JobError, match="registry must be"):
        Avro(registry=tmp_path / "none")


def test_values_that_do_not_fit_the_schema_cost_only_their_row():
    reader = record("int")
    writer = record("long")
    good = framed(1, writer, {"a": 7})
    decoded = Avro(reader, registry={1: writer}).decode([good, framed(1, writer, {"a": 2**40}), good])
    assert rows_of(decoded) == [(0, {"a": 7}), (2, {"a": 7})]
    assert [(r.index, r.reason) for r in decoded.rejects] == [
        (1, "column 'a': not a whole number that fits int32")
    ]


class RegistryHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization")))
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
            return
        answer = self.server.answers.get(self.path)
        if answer is None:
            self.send_error(404)
            return
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def registry():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RegistryHandler) as server:
        server.asked, server.answers, server.failures = [], {}, 0
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_registry_is_asked_once_for_each_schema(registry):
    uses = record("test.Inner")
    inner = {"type": "record", "name": "Inner", "namespace": "test", "fields": [{"name": "x", "type": "int"}]}
    registry.answers = {
        "/schemas/ids/7": {"schema": json.dumps(CLICK)},
        "/schemas/ids/8": {
            "schema": json.dumps(uses),
            "references": [{"name": "test.Inner", "subject": "in ner", "version": 2}],
        },
        "/subjects/in%20ner/versions/2": {"schema": json.dumps(inner)},
    }
    registry.failures = 1
    host = f"127.0.0.1:{registry.server_port}"
    click = framed(7, CLICK, ROWS[1])
    avro_ = Avro(registry=f"http://us%40er:secret@{host}")
    decoded = avro_.decode([click, b"\0\0\0\0\x09abc", click])
    assert rows_of(decoded) == [(0, ROWS[1]), (2, ROWS[1])]
    assert [r.reason for r in decoded.rejects] == ["its schema is not in the registry"]
    avro_.decode([click, b"\0\0\0\0\x09abc"])
    assert [path for path, _ in registry.asked] == ["/schemas/ids/7", "/schemas/ids/7", "/schemas/ids/9"]
    assert registry.asked[0][1] == "Basic dXNAZXI6c2VjcmV0"
    assert "secret" not in repr(avro_)
    nested = Avro(registry=f"http://{host}").decode([b"\0\0\0\0\x08\x0e"])
    assert nested.batch.to_pylist() == [{"a": {"x": 7}}]


def test_a_registry_that_does_not_answer_is_an_error_and_no_reject(registry, monkeypatch):
    monkeypatch.setattr("onstream.streams.formats.registry._PAUSES_S", (0.0, 0.0))
    registry.failures = 3
    avro_ = Avro(registry=f"http://127.0.0.1:{registry.server_port}")
    click = framed(7, CLICK, ROWS[1])
    with pytest.raises(StreamError, match="does not answer"):
        avro_.decode([click])
    assert len(registry.asked) == 3
    registry.answers = {"/schemas/ids/7": {"schema": json.dumps(CLICK)}}
    assert rows_of(avro_.decode([click])) == [(0, ROWS[1])]

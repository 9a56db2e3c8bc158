"""What holds of single formats: JSON, CSV, Arrow IPC, Protobuf and functions."""

import io
import json
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from format_cases import ROWS, arrow, click_class, click_descriptors, rows_of
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2, wrappers_pb2

from onstream.errors import JobError
from onstream.streams.formats import ArrowIpc, Csv, Custom, Json, Protobuf


def reasons(decoded) -> list[tuple[int, str]]:
    return [(reject.index, reject.reason) for reject in decoded.rejects]


# ---------------------------------------------------------------------------------------------- JSON


def test_json_without_a_schema_keeps_what_the_first_messages_had():
    format = Json()
    assert format.schema().names == []
    assert format.decode([b"nonsense", b"{}"]).batch.num_rows == 1
    decoded = format.decode([b"nonsense", b'{"a": 1, "b": null}', b'{"a": 2, "c": "x"}'])
    assert format.schema() == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.string())])
    assert decoded.batch.to_pylist() == [{"a": 1, "b": None, "c": None}, {"a": 2, "b": None, "c": "x"}]
    later = format.decode([b'{"a": 1.5}', b'{"a": 3, "d": 4}'])
    assert rows_of(later) == [(1, {"a": 3, "b": None, "c": None})]
    assert format.select(["a"]).decode([b'{"a": 4, "b": 7}']).batch.to_pylist() == [{"a": 4}]


def test_a_field_that_is_selected_before_it_is_seen_is_text():
    format = Json().select(["a", "later"])
    assert format.decode([b'{"a": 1}']).batch.to_pylist() == [{"a": 1, "later": None}]
    assert format.decode([b'{"later": "x"}', b'{"later": 7}']).batch.to_pylist() == [
        {"a": None, "later": "x"}
    ]


def test_types_that_json_suggests_are_those_that_its_values_fit():
    row = {
        "big": 2**64 - 1,
        "real": 1.5,
        "flag": True,
        "list": [1, None],
        "struct": {"a": ["x"]},
        "empty": [],
    }
    format = Json()
    assert format.decode([json.dumps(row).encode()]).batch.to_pylist() == [row]
    assert [str(t) for t in format.schema().types[:4]] == ["uint64", "double", "bool", "list<item: int64>"]


def test_what_is_inferred_of_one_selection_holds_for_all():
    format = Json()
    first, second = format.select(["a"]), format.select(["b"])
    first.decode([b'{"a": 1, "b": 2}'])
    assert second.schema() == pa.schema([("b", pa.int64())])


def test_json_bounds_depth_and_size():
    format = Json({"a": "int64"}, max_depth=2, max_message_bytes=30)
    decoded = format.decode(
        [b'{"a":1,"x":[1]}', b'{"a":1,"x":[[1]]}', b'{"a":1}' + b" " * 24, b'{"a":1}' + b" " * 23]
    )
    assert decoded.sources.tolist() == [0, 3]
    assert reasons(decoded) == [(1, "JSON nested deeper than 2"), (2, "message longer than 30 bytes")]


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"a": "nonsense"}, "not known"),
        ({"a": pa.month_day_nano_interval()}, "cannot be read as"),
        (pa.schema([("a", pa.int64()), ("a", pa.int64())]), "given twice"),
    ],
)
def test_types_that_json_cannot_have_are_refused(schema, problem):
    with pytest.raises(JobError, match=problem):
        Json(schema)


# ----------------------------------------------------------------------------------------------- CSV


def test_csv_without_a_schema_infers_types_once():
    csv = Csv()
    decoded = csv.decode([b"", b"a,b,c\n", b"a,b,c\n1,x,\n2,y,\n", b"c,a\nz,3\n"])
    assert csv.schema() == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.string())])
    assert rows_of(decoded)[2] == (3, {"a": 3, "b": None, "c": "z"})
    assert reasons(csv.decode([b"a\nx\n"])) == [(0, "column 'a': not a whole number that fits int64")]


def test_csv_messages_whose_only_line_is_no_header_are_rejected():
    csv = Csv({"a": "int64", "b": "int64"})
    decoded = csv.decode([b"1,2\n", b"a,b\n", b"3,4", b"a,b\n5,6\n"])
    assert reasons(decoded) == [(i, "the header has none of the columns") for i in (0, 2)]
    assert [reject.value for reject in decoded.rejects] == ["1,2", "3,4"]
    assert rows_of(decoded) == [(3, {"a": 5, "b": 6})]


def test_tsv_has_no_quotes_and_csv_may_do_without():
    row = [{"a": '"x', "b": "y"}]
    assert Csv(column_names=["a", "b"], delimiter="\t").decode([b'"x\ty\n']).batch.to_pylist() == row
    assert Csv(column_names=["a", "b"], quoting=False).decode([b'"x,y']).batch.to_pylist() == row
    assert Csv(column_names=["a", "b"]).decode([b'"x,",y']).batch.to_pylist() == [{"a": "x,", "b": "y"}]
    nulls = Csv({"a": "int64"}, column_names=["a", "b"], null_values=["-"])
    assert nulls.decode([b"-,1\n3,4"]).batch.to_pylist() == [{"a": None}, {"a": 3}]


def test_an_open_quote_takes_no_line_of_the_next_message():
    csv = Csv(column_names=["a", "b"])
    decoded = csv.decode([b'x,y\n"open,1', b'p",q\nr,s'])
    assert rows_of(decoded) == [
        (0, {"a": "x", "b": "y"}),
        (1, {"a": 'p"', "b": "q"}),
        (1, {"a": "r", "b": "s"}),
    ]


def test_messages_of_too_many_lines_are_rejected_whole():
    csv = Csv({"a": "int64"}, column_names=["a"], max_rows_per_message=2)
    decoded = csv.decode([b"1\n2\n\n", b"1\n2\n3", b"4"])
    assert decoded.sources.tolist() == [0, 0, 2]
    assert reasons(decoded) == [(1, "message of more than 2 rows")]


@pytest.mark.parametrize(
    "arguments",
    [
        {"delimiter": ""},
        {"delimiter": "\n"},
        {"delimiter": "é"},
        {"column_names": []},
        {"column_names": ["a", "a"]},
        {"column_names": ["a"], "schema": {"b": "int64"}},
        {"schema": {"a": pa.list_(pa.int64())}},
    ],
)
def test_wrong_arguments_of_csv_are_refused(arguments):
    with pytest.raises(JobError):
        Csv(**arguments)


# --------------------------------------------------------------------------------------------- Arrow


def test_arrow_columns_are_cast_where_nothing_is_lost():
    wide = arrow(pa.record_batch({"user": pa.array([1, 2], pa.int8()), "extra": [1, 2]}))
    text = arrow(pa.record_batch({"user": ["3", "4"]}))
    views = io.BytesIO()
    pl.DataFrame({"user": [5], "word": ["a long text that is no part of its view"]}).write_ipc_stream(views)
    coded = arrow(pa.record_batch({"word": pa.array(["x", None, "x"]).dictionary_encode()}))
    bad = arrow(pa.record_batch({"user": ["x"]}))
    decoded = ArrowIpc({"user": "int64", "word": "string"}).decode([wide, text, views.getvalue(), coded, bad])
    assert [row["user"] for _, row in rows_of(decoded)] == [1, 2, 3, 4, 5, None, None, None]
    assert decoded.batch["word"].to_pylist()[4:] == [
        "a long text that is no part of its view",
        "x",
        None,
        "x",
    ]
    assert reasons(decoded) == [(4, "column 'user': not a whole number that fits int64")]


def test_arrow_without_a_schema_keeps_that_of_the_first_message():
    first = arrow(pa.record_batch({"a": pa.array(["x"]).dictionary_encode(), "b": [1]}))
    format = ArrowIpc()
    assert format.decode([b"nonsense"]).batch.num_rows == 0 and format.schema().names == []
    assert format.decode([first]).batch.to_pylist() == [{"a": "x", "b": 1}]
    assert format.schema() == pa.schema([("a", pa.string()), ("b", pa.int64())])
    twice = arrow(pa.RecordBatch.from_arrays([pa.array([1]), pa.array([2])], names=["b", "b"]))
    assert reasons(format.decode([twice])) == [(0, "a column is given twice")]


def test_what_arrow_messages_claim_is_bounded_before_it_is_made():
    zeros = arrow(pa.record_batch({"a": np.zeros(1_000_000)}), compression="zstd")
    assert len(zeros) < 10_000
    nulls = arrow(pa.record_batch({"a": pa.nulls(10**9)}))
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * 10_000]))
    wide = arrow(pa.record_batch({"a": long}))
    views = np.tile(np.array([10_000, int.from_bytes(b"xxxx", "little"), 0, 0], np.int32), 1000)
    buffers = [None, pa.py_buffer(views), pa.py_buffer(b"x" * 10_000)]
    view = arrow(pa.record_batch({"a": pa.Array.from_buffers(pa.string_view(), 1000, buffers)}))
    for schema in (None, {"a": "string"}):
        format = ArrowIpc(schema, max_decoded_bytes=1_000_000, max_rows_per_message=10_000_000)
        decoded = format.decode([zeros, nulls, wide, view])
        assert decoded.batch.num_rows == 0
        assert [reason for _, reason in reasons(decoded)] == [
            "message of more than 1000000 bytes when decompressed",
            "message of more than 10000000 rows",
            *(["column 'a': more than 1000000 bytes when decoded"] * 2),
        ]


def test_claims_of_damaged_arrow_messages_are_not_believed():
    draw = random.Random(0)
    whole = arrow(pa.record_batch({"a": pa.array([1, 2, None]), "s": ["x", None, "yy"]}), compression="lz4")
    format = ArrowIpc({"a": "int64", "s": "string"}, max_rows_per_message=1000, max_decoded_bytes=100_000)
    for _ in range(2000):
        message = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            message[draw.randrange(len(message))] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])
        rows_of(format.decode([bytes(message)]))


# ------------------------------------------------------------------------------------------ Protobuf


def rich_descriptors() -> bytes:
    files = descriptor_pb2.FileDescriptorSet()
    file = files.file.add(name="rich.proto", package="shop", syntax="proto3")
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"])
    kind = file.enum_type.add(name="Kind")
    for number, name in enumerate(["VIEW", "CLICK"]):
        kind.value.add(name=name, number=number)
    place = file.message_type.add(name="Place")
    place.field.add(name="x", number=1, type="TYPE_SINT32", label="LABEL_OPTIONAL")
    node = file.message_type.add(name="Node")
    node.field.add(name="next", number=1, type="TYPE_MESSAGE", type_name=".shop.Node", label="LABEL_OPTIONAL")
    rich = file.message_type.add(name="Rich")
    entry = rich.nested_type.add(name="CountsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    entry.field.add(name="value", number=2, type="TYPE_UINT64", label="LABEL_OPTIONAL")
    rich.oneof_decl.add(name="_maybe")
    rich.field.add(
        name="maybe", number=1, type="TYPE_INT32", label="LABEL_OPTIONAL", proto3_optional=True, oneof_index=0
    )
    for number, (name, kind_, type_name, label) in enumerate(
        [
            ("plain", "BOOL", None, "OPTIONAL"),
            ("kind", "ENUM", ".shop.Kind", "OPTIONAL"),
            ("kinds", "ENUM", ".shop.Kind", "REPEATED"),
            ("raw", "BYTES", None, "OPTIONAL"),
            ("ids", "FIXED64", None, "REPEATED"),
            ("place", "MESSAGE", ".shop.Place", "OPTIONAL"),
            ("places", "MESSAGE", ".shop.Place", "REPEATED"),
            ("at", "MESSAGE", ".google.protobuf.Timestamp", "OPTIONAL"),
            ("wrapped", "MESSAGE", ".google.protobuf.DoubleValue", "OPTIONAL"),
            ("counts", "MESSAGE", ".shop.Rich.CountsEntry", "REPEATED"),
            ("node", "MESSAGE", ".shop.Node", "OPTIONAL"),
        ],
        start=2,
    ):
        rich.field.add(
            name=name, number=number, type=f"TYPE_{kind_}", type_name=type_name, label=f"LABEL_{label}"
        )
    for module in (timestamp_pb2, wrappers_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    return files.SerializeToString()


def test_every_kind_of_protobuf_field_becomes_a_column(tmp_path):
    raw = rich_descriptors()
    (tmp_path / "rich.pb").write_bytes(raw)
    format = Protobuf(tmp_path / "rich.pb", "shop.Rich")
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(raw).file
    for file in (*files[1:], files[0]):
        pool.AddSerializedFile(file.SerializeToString())
    rich = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Rich"))
    full = rich(
        maybe=0,
        plain=True,
        kind=1,
        kinds=[0, 1, 7],
        raw=b"\xff",
        ids=[2**64 - 1],
        place={"x": -5},
        places=[{"x": 1}, {}],
        at={"seconds": 1, "nanos": 5000},
        wrapped={"value": 0.5},
        counts={"a": 3},
    )
    huge = rich(at={"seconds": 2**62})
    decoded = format.decode([full.SerializeToString(), huge.SerializeToString(), b""])
    assert "node" in format.schema().names
    (first, row), (last, empty) = rows_of(decoded)
    assert (first, last) == (0, 2)
    at = row.pop("at")
    assert at.timestamp() == 1.000005
    assert row == {
        "maybe": 0,
        "plain": True,
        "kind": "CLICK",
        "kinds": ["VIEW", "CLICK", "7"],
        "raw": b"\xff",
        "ids": [2**64 - 1],
        "place": {"x": -5},
        "places": [{"x": 1}, {"x": 0}],
        "wrapped": 0.5,
        "counts": [("a", 3)],
        "node": None,
    }
    assert (
        empty["maybe"] is None and empty["plain"] is False and empty["place"] is None and empty["ids"] == []
    )
    assert reasons(decoded) == [(1, "column 'at': not of type timestamp[us, tz=UTC]")]


def test_descriptors_stay_in_a_pool_of_their_own():
    Protobuf(click_descriptors(), "shop.Click")
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("shop.Click")
    other = descriptor_pb2.FileDescriptorSet()
    other.file.add(name="click.proto", package="shop").message_type.add(name="Click")
    assert Protobuf(other.SerializeToString(), "shop.Click").schema().names == []


@pytest.mark.parametrize(
    ("descriptors", "message", "problem"),
    [
        (b"\xff", "shop.Click", "no FileDescriptorSet"),
        (click_descriptors(), "shop.None", "no complete type"),
        (b"", "shop.Click", "no complete type"),
        ("/does/not/exist.pb", "shop.Click", "cannot read"),
    ],
)
def test_wrong_descriptors_are_refused(descriptors, message, problem):
    with pytest.raises(JobError, match=problem):
        Protobuf(descriptors, message)


def test_framed_protobuf_of_another_type_is_told():
    click = click_class()(**ROWS[1]).SerializeToString()
    format = Protobuf(click_descriptors(), "shop.Click", framed=True)
    decoded = format.decode([b"\0\0\0\0\1\2\2" + click, b"\0\0\0\0\1\0" + click])
    assert rows_of(decoded) == [(0, ROWS[1])]
    assert reasons(decoded) == [(1, "a framed message of another type than shop.Click")]


# ----------------------------------------------------------------------------------------- functions


def test_a_function_may_give_many_rows_or_none():
    def numbers(message):
        if message == b"skip":
            return None
        return ({"n": int(n)} for n in message.split())

    format = Custom(numbers, {"n": "int8"}, max_rows_per_message=3)
    decoded = format.decode([b"1 2", b"skip", b"", b"1 2 3 4", b"x", b"3 300", None, b"4"])
    assert rows_of(decoded) == [(0, {"n": 1}), (0, {"n": 2}), (7, {"n": 4})]
    assert reasons(decoded) == [
        (3, "ValueError: message of more than 3 rows"),
        (4, "ValueError: invalid literal for int() with base 10: b'x'"),
        (5, "column 'n': not a whole number that fits int8"),
    ]


def test_a_batch_without_a_row_for_each_message_is_a_mistake_of_the_function():
    short = Custom(lambda messages: pa.record_batch({"n": [1]}), {"n": "int64"}, batched=True)
    assert short.decode([b"x"]).batch.to_pylist() == [{"n": 1}]
    with pytest.raises(JobError, match="a RecordBatch of 2 rows, one a message; got 1 rows"):
        short.decode([b"x", b"y"])
    with pytest.raises(JobError, match="got list"):
        Custom(lambda messages: [], {"n": "int64"}, batched=True).decode([b"x"])
    with pytest.raises(JobError, match="must be a function"):
        Custom(7, {"n": "int64"})

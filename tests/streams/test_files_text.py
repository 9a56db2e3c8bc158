"""Text files: every line is a row or a reject, and positions are bytes."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamed import positions_of, read, rejects_of, rows_of

import onstream.streams.parsing.text as text_module
from onstream.errors import JobError, StreamError
from onstream.streams import Files
from onstream.streams.chunks import PAST_END

AB = {"a": "int64", "b": "string"}


def test_header_names_the_columns_and_first_values_their_types(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b,c\n1,"x, ""y""",0.5\n2,,\n')
    stream = Files(path)
    assert stream.schema() == pa.schema({"a": pa.int64(), "b": pa.string(), "c": pa.float64()})
    assert rows_of(read(stream)) == [{"a": 1, "b": 'x, "y"', "c": 0.5}, {"a": 2, "b": None, "c": None}]


def test_tsv_has_no_quotes(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text('1\t"x\n2\ty"\n')
    assert rows_of(read(Files(path, column_names=["a", "b"]))) == [{"a": 1, "b": '"x'}, {"a": 2, "b": 'y"'}]


def test_ends_are_the_bytes_after_each_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes("a,b\r\n1,é\r\n\r\n22,y\r\n".encode())
    [chunk] = read(Files(path))
    assert chunk.ends.tolist() == [11, 19]
    assert chunk.next == path.stat().st_size == 19
    assert rows_of([chunk]) == [{"a": 1, "b": "é"}, {"a": 22, "b": "y"}]


def test_reading_from_each_end_gives_the_rows_after_it(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "".join(f"{i},v{i}\n" for i in range(20)))
    [chunk] = read(Files(path))
    for i, end in enumerate(chunk.ends.tolist()):
        later = read(Files(path), {"x.csv": end})
        assert [row["a"] for row in rows_of(later)] == list(range(i + 1, 20))


def test_bad_values_and_shapes_are_rejected_with_place_and_reason(tmp_path):
    path = tmp_path / "x.csv"
    lines = [b"1,x", b"one,x", b"2", b"3,y,z", b"", b"4,\xff", b'5,"open', b"300,z", b"6,ok"]
    path.write_bytes(b"a,b\n" + b"\n".join(lines) + b"\n")
    chunks = read(Files(path, schema={"a": "int8", "b": "string"}))
    starts = np.cumsum([4] + [len(line) + 1 for line in lines]).tolist()
    assert rows_of(chunks) == [{"a": 1, "b": "x"}, {"a": 6, "b": "ok"}]
    assert rejects_of(chunks) == [
        (starts[1], "column 'a': not a whole number that fits int8"),
        (starts[2], "expected 2 columns, got 1"),
        (starts[3], "expected 2 columns, got 3"),
        (starts[5], "column 'b': not text in UTF-8"),
        (starts[6], "one line is not one row: a quote is not closed, or a line end is inside"),
        (starts[7], "column 'a': not a whole number that fits int8"),
    ]
    assert chunks[0].rejects[0].value == "one,x"
    assert chunks[0].ends.tolist() == [starts[1], starts[9]]


def test_an_open_quote_rejects_its_line_wherever_chunks_end(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n1,x\n2,"y\n3,z"\n4,w\n')
    for max_rows in (1, 2, 3, 4):
        chunks = read(Files(path, schema=AB), max_rows=max_rows)
        assert [row["a"] for row in rows_of(chunks)] == [1, 3, 4]
        assert [place for place, _ in rejects_of(chunks)] == [8]


def test_merged_and_split_lines_that_keep_the_count_are_found(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,"x\n2,y"\n3,p\r4,q\n5,w\n')
    for max_rows in (1, 10):
        chunks = read(Files(path, schema=AB), max_rows=max_rows)
        assert rows_of(chunks) == [{"a": 2, "b": 'y"'}, {"a": 5, "b": "w"}]
        assert len(rejects_of(chunks)) == 2


def test_broken_json_is_rejected_and_good_objects_go_on(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        b'{"a":1,"b":"x"}',
        b'{"a":2,',
        b"[1]",
        b'{"a":"three"}',
        b'{"a":4} {"a":5}',
        b'{"b":"\xff"}',
        b'{"a":1,"a":2}',
        b' {"a":6,"other":{"deep":[1]}} ',
        b"",
        b'{"b":7}',
        b'{"b":"y"}',
    ]
    path.write_bytes(b"\r\n".join(lines))
    chunks = read(Files(path, schema=AB, columns=["a", "b"]))
    assert rows_of(chunks) == [{"a": 1, "b": "x"}, {"a": 6, "b": None}, {"a": None, "b": "y"}]
    assert [reason for _, reason in rejects_of(chunks)] == [
        "not valid JSON",
        "not a JSON object",
        "column 'a': not a whole number that fits int64",
        "not valid JSON",
        "not valid JSON",
        "column 'a': given twice",
        "column 'b': not text in UTF-8",
    ]


def test_an_object_over_two_lines_is_no_row_even_if_another_line_has_two(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a":1}{"a":2}\n{"a":\n3}\n{"a":4}\n')
    chunks = read(Files(path, schema={"a": "int64"}))
    assert rows_of(chunks) == [{"a": 4}]
    assert len(rejects_of(chunks)) == 3


@st.composite
def texts(draw):
    """Lines of a CSV text, and what each is: a row, a reject, or nothing."""
    kinds = st.sampled_from(["row", "quoted", "blank", "short", "word", "open", "return"])
    made = []
    for i, kind in enumerate(draw(st.lists(kinds, max_size=40))):
        line = {
            "row": f"{i},v{i}",
            "quoted": f'{i},"q,""{i}"',
            "blank": "",
            "short": f"{i}",
            "word": f"w{i},x",
            "open": f'{i},"x',
            "return": f"{i},x\r{i},y",
        }[kind]
        made.append((kind, i, line))
    return made, draw(st.sampled_from(["\n", "\r\n"])), draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(texts(), st.integers(1, 9), st.integers(8, 64))
def test_rows_rejects_and_ends_are_those_of_the_lines_whatever_chunks_and_blocks(
    tmp_path_factory, text, max_rows, block
):
    made, newline, last_end = text
    path = tmp_path_factory.mktemp("text") / "x.csv"
    data = "".join(line + newline for _, _, line in made)
    path.write_bytes(data.encode() if last_end else data.encode().rstrip(b"\r\n"))
    good, bad, ends, at = [], [], [], 0
    for kind, i, line in made:
        begin, at = at, at + len(line + newline)
        if kind in ("row", "quoted"):
            good.append({"a": i, "b": f"v{i}" if kind == "row" else f'q,"{i}'})
            ends.append(min(at, path.stat().st_size))
        elif kind != "blank":
            bad.append(begin)
    before = text_module.BLOCK_BYTES
    text_module.BLOCK_BYTES = block
    try:
        chunks = read(Files(path, schema=AB, column_names=["a", "b"]), max_rows=max_rows)
    finally:
        text_module.BLOCK_BYTES = before
    assert rows_of(chunks) == good
    assert [place for place, _ in rejects_of(chunks)] == bad
    assert [end for chunk in chunks for end in chunk.ends.tolist()] == ends
    assert all(chunk.batch.num_rows <= max_rows for chunk in chunks)
    assert positions_of(chunks).get("x.csv", 0) == path.stat().st_size


def test_a_rest_of_a_block_is_read_with_the_next_block(tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    path.write_text("".join(f"{i:03},x\n" for i in range(700)))
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 1_200)
    chunks = read(Files(path, column_names=["a", "b"]), max_rows=90)
    assert [row["a"] for row in rows_of(chunks)] == list(range(700))
    assert [chunk.batch.num_rows for chunk in chunks] == [90] * 7 + [70]


def test_json_text_that_is_not_utf8_is_rejected(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"b":"x"}\n{"b":"\xff"}\n')
    chunks = read(Files(path, schema={"b": "string"}))
    assert rows_of(chunks) == [{"b": "x"}]
    assert rejects_of(chunks) == [(10, "not valid JSON")]


def test_a_line_of_10_mb_is_a_row(tmp_path):
    long = "x" * 10_000_000
    (tmp_path / "x.csv").write_text(f"a,b\n1,{long}\n2,y\n")
    assert [len(row["b"]) for row in rows_of(read(Files(tmp_path / "x.csv", schema=AB)))] == [10_000_000, 1]
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": 1, "b": long}) + '\n{"a":2,"b":"y"}\n')
    assert [len(row["b"]) for row in rows_of(read(Files(tmp_path / "x.jsonl")))] == [10_000_000, 1]


@pytest.mark.parametrize("long", [101, 5_000_000])
def test_a_line_over_the_limit_is_rejected_once(tmp_path, long):
    path = tmp_path / "x.csv"
    path.write_text("1,x\n2," + "y" * (long - 3) + "\n3,z\n")
    chunks = read(Files(path, schema=AB, column_names=["a", "b"], max_line_bytes=100))
    assert [row["a"] for row in rows_of(chunks)] == [1, 3]
    assert rejects_of(chunks) == [(4, "line longer than 100 bytes")]
    assert chunks[-1].next == path.stat().st_size
    path.write_text("1,x\n2," + "y" * (long - 2))
    chunks = read(Files(path, schema=AB, column_names=["a", "b"], max_line_bytes=long - 1))
    assert [row["a"] for row in rows_of(chunks)] == [1]
    assert (len(rejects_of(chunks)), chunks[-1].next) == (1, path.stat().st_size)
    exact = read(Files(path, schema=AB, column_names=["a", "b"], max_line_bytes=long))
    assert [row["a"] for row in rows_of(exact)] == [1, 2]


@pytest.mark.parametrize("content", ["", "a,b\n", "a,b", "\n\n", "\ufeffa,b\n\n"])
def test_a_file_without_rows_gives_none_and_is_finished(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_text(content)
    chunks = read(Files(path))
    assert rows_of(chunks) == []
    if "a" in content:
        assert positions_of(chunks) == {"x.csv": path.stat().st_size}
        assert read(Files(path), positions_of(chunks)) == []


def test_byte_order_mark_is_no_part_of_the_first_name_or_value(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("\ufeffb\nx\n\ufeffy\n")
    for max_rows in (1, 10):
        assert [row["b"] for row in rows_of(read(Files(path), max_rows=max_rows))] == ["x", "\ufeffy"]
    bare = tmp_path / "y.csv"
    bare.write_text("\ufeff1\n2\n")
    assert [row["a"] for row in rows_of(read(Files(bare, column_names=["a"])))] == [1, 2]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_positions_in_compressed_text_count_the_text(tmp_path, suffix):
    text = b"a\n" + b"".join(b"%d\n" % i for i in range(200_000))
    path = tmp_path / f"x.csv.{suffix}"
    with pa.output_stream(path) as sink:
        sink.write(text)
    chunks = read(Files(path))
    assert [row["a"] for row in rows_of(chunks)] == list(range(200_000))
    assert chunks[-1].next == len(text)
    middle = int(chunks[0].ends[9])
    assert rows_of(read(Files(path), {path.name: middle})) == rows_of(chunks)[10:]
    assert Files(path).behind({}) is None


def test_damaged_gzip_gives_rows_then_one_reject_and_the_next_file(tmp_path):
    rng = np.random.default_rng(0)
    whole = b"a\n" + b"".join(b"%d\n" % i for i in rng.integers(0, 10**9, 300_000))
    packed = gzip.compress(whole, 1)
    (tmp_path / "1.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "2.csv").write_text("a\n7\n")
    chunks = read(Files(tmp_path))
    assert next(r for c in chunks for r in c.rejects).reason == "damaged compressed file"
    assert len(rejects_of(chunks)) == 1
    rows = [b"%d" % row["a"] for row in rows_of(chunks)]
    assert len(rows) > 50_000
    assert rows == [*whole.split()[1 : len(rows)], b"7"]
    assert positions_of(chunks)["1.csv.gz"] == PAST_END
    assert read(Files(tmp_path), positions_of(chunks)) == []
    # From another position, the readable part ends at the same byte.
    first = [c for c in chunks if c.partition == "1.csv.gz"]
    again = read(Files(tmp_path), {"1.csv.gz": int(first[0].ends[5]), "2.csv": 4})
    assert rejects_of(again) == rejects_of(chunks)


def test_json_types_come_from_the_first_values(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a":null,"b":1,"c":1}\n{"b":"x","c":0.5,"d":[1],"e":"2024-01-01"}\n')
    stream = Files(path)
    types = {
        "a": pa.string(),
        "b": pa.int64(),
        "c": pa.float64(),
        "d": pa.list_(pa.int64()),
        "e": pa.string(),
    }
    assert stream.schema() == pa.schema(types)
    assert len(rows_of(read(stream))) == len(rejects_of(read(stream))) == 1


def test_selected_columns_only_are_decoded(tmp_path):
    (tmp_path / "x.csv").write_text("a,b,c\n1,bad,3\n")
    (tmp_path / "x.jsonl").write_text('{"a":1,"b":"bad","c":3}\n')
    for name in ("x.csv", "x.jsonl"):
        stream = Files(tmp_path / name, schema={"b": "int64"}).select(["c", "a", "missing"])
        assert rows_of(read(stream)) == [{"a": 1, "c": 3}]
        assert stream.schema().names == ["a", "c"]
    with pytest.raises(StreamError, match="none of the columns"):
        read(Files(tmp_path / "x.csv").select(["missing"]))


def test_files_are_read_in_order_of_their_names_below_the_common_root(tmp_path):
    for name in ("b/2.csv", "b/10.csv", "a/x.tsv", "b/_tmp.csv", "b/notes.md", "b/.hidden.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"a\n{len(name)}\n")
    assert list(positions_of(read(Files(tmp_path)))) == ["a/x.tsv", "b/10.csv", "b/2.csv"]
    assert list(positions_of(read(Files(str(tmp_path / "b" / "*.csv"))))) == ["10.csv", "2.csv", "_tmp.csv"]
    both = Files([tmp_path / "b" / "2.csv", tmp_path / "a"])
    assert list(positions_of(read(both))) == ["a/x.tsv", "b/2.csv"]


def test_columns_may_come_in_another_order_in_another_file(tmp_path):
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("b,new,a\ny,0.5,2\n")
    assert rows_of(read(Files(tmp_path))) == [{"a": 1, "b": "x"}, {"b": "y", "new": 0.5, "a": 2}]


def test_other_delimiters_and_null_values_are_heeded(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a|b\nNA|NA\n1|"NA"\n')
    rows = rows_of(read(Files(path, delimiter="|", null_values=["NA"])))
    assert rows == [{"a": None, "b": None}, {"a": 1, "b": "NA"}]


def test_format_overrules_the_suffix(tmp_path):
    path = tmp_path / "x.log"
    path.write_text('{"a":1}\n')
    assert rows_of(read(Files(path, format="jsonl"))) == [{"a": 1}]
    with pytest.raises(StreamError, match=r"x\.log.*pass format="):
        read(Files(path))


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(StreamError, match=r"no file matches .*nothing\*\.csv"):
        read(Files(str(tmp_path / "nothing*.csv")))
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    with pytest.raises(StreamError, match="shorter than its position, byte 5"):
        read(Files(path), {"x.csv": 5})
    path.write_text("a,a\n1,2\n")
    with pytest.raises(StreamError, match="more than one column 'a'"):
        read(Files(path))
    for wrong in (
        {"format": "xml"},
        {"delimiter": "ab"},
        {"max_line_bytes": 0},
        {"rate": 0},
        {"schema": {"a": "?"}},
    ):
        with pytest.raises(JobError):
            Files(path, **wrong)


def test_behind_counts_the_bytes_left(tmp_path):
    (tmp_path / "1.csv").write_text("a\n1\n")
    (tmp_path / "2.csv").write_text("a\n2\n")
    assert Files(tmp_path).behind({}) == (8, "bytes")
    assert Files(tmp_path).behind({"1.csv": 4, "2.csv": 2}) == (2, "bytes")


def test_a_column_that_begins_empty_is_read_as_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,\n")
    assert Files(path).schema().field("b").type == pa.string()


def test_many_bad_lines_among_good_ones_are_all_found(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "".join(f"{'x' if i % 50 == 7 else i},v\n" for i in range(5_000)))
    chunks = read(Files(path, schema=AB))
    assert len(rejects_of(chunks)) == 100
    assert [row["a"] for row in rows_of(chunks)] == [i for i in range(5_000) if i % 50 != 7]


def test_a_line_of_a_wrong_shape_that_is_not_utf8_costs_only_itself(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,2\n1,\xff,2\n3,"\xff\n4,5\n')
    chunks = read(Files(path, schema={"a": "int64", "b": "string"}))
    assert rows_of(chunks) == [{"a": 1, "b": "2"}, {"a": 4, "b": "5"}]
    assert [position for position, _ in rejects_of(chunks)] == [8, 14]

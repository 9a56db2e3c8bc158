"""Parquet and Arrow IPC files: positions are rows."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamed import numbers, positions_of, read, rejects_of, rows_of

from onstream.errors import StreamError
from onstream.streams import Files
from onstream.streams.chunks import PAST_END

KINDS = ["parquet", "file", "stream"]


def write(path, kind, num_rows=1_000, stored=100):
    table = pa.table({"n": range(num_rows), "s": [f"v{i}" for i in range(num_rows)]})
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=stored)
    else:
        made = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, made(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=stored)
    return path


def named(tmp_path, kind):
    return tmp_path / {"parquet": "x.parquet", "file": "x.arrow", "stream": "x.arrows"}[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("position", [0, 1, 99, 100, 555, 1_000])
def test_reading_begins_at_the_row_of_the_position(tmp_path, kind, position):
    path = write(named(tmp_path, kind), kind)
    chunks = read(Files(path), {path.name: position}, max_rows=64)
    assert [row["n"] for row in rows_of(chunks)] == list(range(position, 1_000))
    assert all(chunk.batch.num_rows <= 64 for chunk in chunks)
    assert all(chunk.next - chunk.batch.num_rows == chunk.batch["n"][0].as_py() for chunk in chunks)
    assert Files(path).behind({path.name: position}) == (1_000 - position, "rows")


@pytest.mark.parametrize("kind", KINDS)
def test_selected_columns_only_are_decoded(tmp_path, kind):
    stream = Files(write(named(tmp_path, kind), kind)).select(["s", "missing"])
    assert read(stream)[0].batch.schema.names == ["s"]
    assert stream.schema() == pa.schema({"s": pa.string()})
    with pytest.raises(StreamError, match="none of the columns"):
        read(stream.select(["missing"]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_file_gives_one_reject_and_the_stream_goes_on(tmp_path, kind):
    path = write(named(tmp_path, kind), kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    write(tmp_path / "y.parquet", "parquet", 3)
    chunks = read(Files(tmp_path))
    first = [row["n"] for row in rows_of(chunks)][:-3]
    assert first == list(range(len(first)))
    assert (len(first) > 500) == (kind != "parquet")
    [(place, reason)] = rejects_of(chunks)
    assert place == len(first)
    assert reason == f"damaged {'parquet' if kind == 'parquet' else 'arrow'} file"
    assert positions_of(chunks) == {path.name: PAST_END, "y.parquet": 3}
    assert read(Files(tmp_path), positions_of(chunks)) == []


def test_an_arrow_file_without_its_footer_gives_all_rows_and_one_reject(tmp_path):
    path = write(tmp_path / "x.arrow", "file")
    path.write_bytes(path.read_bytes()[:-3])
    chunks = read(Files(path))
    assert [row["n"] for row in rows_of(chunks)] == list(range(1_000))
    assert rejects_of(chunks) == [(1_000, "damaged arrow file")]


def test_damage_inside_a_parquet_file_keeps_the_rows_before_it(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"n": range(1_000)})
    plain = {"use_dictionary": False, "compression": "none"}
    pq.write_table(table, path, row_group_size=100, write_page_checksum=True, **plain)
    data = bytearray(path.read_bytes())
    at = pq.read_metadata(path).row_group(5).column(0).data_page_offset
    data[at + 400] ^= 0xFF
    path.write_bytes(data)
    chunks = read(Files(path))
    assert [row["n"] for row in rows_of(chunks)] == list(range(500))
    assert rejects_of(chunks) == [(500, "damaged parquet file")]


def test_offsets_that_point_outside_are_damage_and_no_crash(tmp_path):
    path = tmp_path / "x.arrow"
    good = pa.record_batch({"s": ["abc", "def"]})
    offsets = pa.py_buffer(b"\0\0\0\0\x10\0\0\0\x02\0\0\0")
    bad = pa.RecordBatch.from_arrays(
        [pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"x" * 16)])], ["s"]
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, good.schema) as writer:
        writer.write(good)
        writer.write(bad)
    chunks = read(Files(path))
    assert len(rows_of(chunks)) == 2
    assert rejects_of(chunks) == [(2, "damaged arrow file")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_with_fewer_rows_than_its_position_is_an_error(tmp_path, kind):
    path = write(named(tmp_path, kind), kind, 10)
    with pytest.raises(StreamError, match="10 rows, position 11"):
        read(Files(path), {path.name: 11})


def test_text_and_rows_together_have_no_common_unit(tmp_path):
    write(tmp_path / "x.parquet", "parquet", 3)
    (tmp_path / "y.csv").write_text("n,s\n1,x\n")
    assert Files(tmp_path).behind({}) is None
    assert len(rows_of(read(Files(tmp_path)))) == 4


def test_feather_is_arrow(tmp_path):
    import pyarrow.feather as feather

    feather.write_feather(pa.Table.from_batches([numbers(0, 5)]), tmp_path / "x.feather")
    assert len(rows_of(read(Files(tmp_path / "x.feather")))) == 5

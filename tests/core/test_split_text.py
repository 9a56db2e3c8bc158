"""Splitting of plain delimited text, against Python's own."""

import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream import core
from onstream.errors import ColumnError, ShapeError

WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="\t"), max_size=40)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def split(lines: list[str], kinds: list[str], *, end: str = "\n", wanted: list[int] | None = None):
    text = ("\n".join(lines) + end).encode()
    places = list(range(len(kinds))) if wanted is None else wanted
    columns = core.split_text(
        text, 0, len(text), "\t", len(lines), len(kinds), [(i, kinds[i]) for i in places]
    )
    if columns is None:
        return None
    arrays = []
    for i, (nulls, *parts) in zip(places, columns, strict=True):
        kind = pa.type_for_alias(kinds[i])
        validity, offsets, values = (None if p is None else pa.py_buffer(p) for p in parts)
        buffers = [validity, offsets, values] if kinds[i] == "string" else [validity, values]
        array = pa.Array.from_buffers(kind, len(lines), buffers, nulls)
        array.validate(full=True)
        arrays.append(array.to_pylist())
    return arrays


@given(st.lists(st.tuples(WORDS, INTEGERS, WORDS), min_size=1, max_size=70), st.sampled_from(["\n", ""]))
def test_plain_lines_are_split_as_python_splits_them(rows, end):
    lines = [f"{a}\t{b}\t{c}" for a, b, c in rows]
    texts, numbers, others = split(lines, ["string", "int64", "string"], end=end)
    assert numbers == [b for _, b, _ in rows]
    assert texts == [a or None for a, _, _ in rows] and others == [c or None for _, _, c in rows]
    assert split(lines, ["string", "int64", "string"], end=end, wanted=[2, 1]) == [others, numbers]


def test_many_rows_cross_every_block():
    lines = [f"{i}\t{'x' * (i % 97)}\t{i / 7!r}" for i in range(20_000)]
    numbers, texts, floats = split(lines, ["int32", "string", "double"])
    assert numbers == list(range(20_000)) and floats == [i / 7 for i in range(20_000)]
    assert texts == ["x" * (i % 97) or None for i in range(20_000)]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_are_those_that_pyarrow_reads(values):
    lines = [repr(v) for v in values]
    text = ("x\n" + "\n".join(lines) + "\n").encode()
    read = pa_csv.read_csv(
        pa.BufferReader(text), convert_options=pa_csv.ConvertOptions(column_types={"x": pa.float64()})
    )
    assert split(lines, ["double"]) == [read["x"].to_pylist()]


@pytest.mark.parametrize(
    ("lines", "kinds"),
    [
        (["a\tb\tc"], ["string", "string"]),
        (["a"], ["string", "string"]),
        (["a\tb", "c"], ["string", "string"]),
        (["ä\tb"], ["string", "string"]),
        (["a\tb\r"], ["string", "string"]),
        (["1 \t2"], ["int64", "int64"]),
        (["+1\t2"], ["int64", "int64"]),
        (["-\t2"], ["int64", "int64"]),
        (["128\t2"], ["int8", "int64"]),
        (["9223372036854775808\t2"], ["int64", "int64"]),
        (["nan\t2"], ["double", "int64"]),
        (["1.5\t2"], ["int64", "int64"]),
        (["0x10\t2"], ["int64", "int64"]),
    ],
)
def test_what_is_not_plain_is_left_to_a_slower_way(lines, kinds):
    assert split(lines, kinds) is None


@pytest.mark.parametrize("size", [62, 63, 64, 65, 126, 127, 128])
@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_may_end_at_the_border_of_a_block(size, end):
    assert split(["x" * size], ["string"], end=end) == [["x" * size]]
    assert split(["a", "x" * (size - 2)], ["string"], end=end) == [["a", "x" * (size - 2)]]


def test_another_number_of_lines_is_not_plain():
    text = b"1\n2\n3\n"
    for rows in (2, 4):
        assert core.split_text(text, 0, len(text), "\t", rows, 1, [(0, "int64")]) is None


def test_what_does_not_fit_is_refused():
    with pytest.raises(ColumnError, match="float16"):
        core.split_text(b"1\n", 0, 2, "\t", 1, 1, [(0, "float16")])
    for end, delimiter, place in ((3, "\t", 0), (2, "ab", 0), (2, "\t", 1)):
        with pytest.raises(ShapeError):
            core.split_text(b"1\n", 0, end, delimiter, 1, 1, [(place, "int64")])

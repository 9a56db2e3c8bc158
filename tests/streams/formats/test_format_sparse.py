"""Vowpal Wabbit, libsvm and libffm text, against the simplest readers of them."""

import numpy as np
import pytest
from format_cases import rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream import Files
from onstream.errors import JobError, StreamError
from onstream.streams.formats import Libffm, Libsvm, VowpalWabbit

NUMBERS = st.floats(-1e6, 1e6, width=32).map(lambda x: f"{x:.9g}")
ANYTHING = st.sampled_from(
    [
        "1",
        "-1",
        "+2",
        ".5",
        "3.",
        ".",
        "1e3",
        "1e99",
        "1e-99",
        "nan",
        "inf",
        "x",
        "0x1",
        "",
        ":",
        "1:",
        "7:2",
        "1:2:3",
        "-1:2",
        "007:1",
        "9223372036854775807:1",
        "9223372036854775808:1",
        "#",
        "1_0",
        "+-1",
        "1:2#",
        "é",
        "|",
        "|a",
        "'t",
        "a:",
        ":1",
    ]
)
INDICES = st.integers(0, 2**63 - 1)


def f32(text: str) -> float:
    return float(np.float32(text))


@given(
    st.lists(
        st.tuples(NUMBERS, st.lists(st.tuples(INDICES, INDICES, NUMBERS), max_size=5)), min_size=1, max_size=8
    )
)
def test_sparse_lines_are_read_as_they_were_written(lines):
    svm = [f"{y} " + "  ".join(f"{i}:{v}" for _, i, v in some) for y, some in lines]
    ffm = [f"{y}\t" + " ".join(f"{f}:{i}:{v}" for f, i, v in some) for y, some in lines]
    rows = [
        {
            "label": f32(y),
            "fields": [f for f, _, _ in some],
            "indices": [i for _, i, _ in some],
            "values": [f32(v) for *_, v in some],
        }
        for y, some in lines
    ]
    assert Libffm().decode([line.encode() for line in ffm]).batch.to_pylist() == rows
    for row in rows:
        del row["fields"]
    decoded = Libsvm().decode(["\n".join(svm).encode(), b"1"])
    assert rows_of(decoded) == [*((0, row) for row in rows), (1, {"label": 1.0, "indices": [], "values": []})]


def read_vw(line: str) -> dict:
    """Read one line of Vowpal Wabbit as its wiki says."""
    head, *segments = line.split("|")
    words = head.split()
    tag = None
    if words and (not head.endswith(" ") or words[-1].startswith("'")):
        tag = words.pop().removeprefix("'")
    row = {
        "label": f32(words[0]) if words else None,
        "weight": f32(words[1]) if len(words) > 1 else 1.0,
        "tag": tag,
    }
    for name in ("a", "b", "features"):
        row |= {name: [], f"{name}.values": []}
    for segment in segments:
        words = segment.split()
        name, scale = "features", "1"
        if words and not segment.startswith(" "):
            name, _, scale = words.pop(0).partition(":")
        for word in words if name in row else ():
            feature, _, value = word.partition(":")
            row[name].append(feature)
            row[f"{name}.values"].append(float(np.float32(value or "1") * np.float32(scale or "1")))
    return row


WORDS = st.text("abcé0_-.", min_size=1, max_size=4)
FEATURES = st.builds(lambda w, v: w if v is None else f"{w}:{v}", WORDS, st.none() | NUMBERS)
SEGMENTS = st.builds(
    lambda name, scale, some: (name + (f":{scale}" if name and scale else "")) + " " + " ".join(some),
    st.sampled_from(["a", "b", "", "other"]),
    st.none() | NUMBERS,
    st.lists(FEATURES, max_size=4),
)
HEADS = st.builds(
    lambda words, tag: " ".join(words) + " " + tag,
    st.lists(NUMBERS, max_size=3),
    st.sampled_from(["", "'tag ", "tag", "'tag", "' "]),
)


@settings(max_examples=60)
@given(
    st.lists(
        st.builds(
            lambda head, some: "|".join([head, *some]), HEADS, st.lists(SEGMENTS, min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_vowpal_wabbit_lines_are_read_as_its_wiki_says(lines):
    decoded = VowpalWabbit(["a", "b", ""]).decode([line.encode() for line in lines])
    assert rows_of(decoded) == [(i, read_vw(line.strip())) for i, line in enumerate(lines)]


@settings(max_examples=150)
@given(st.lists(st.lists(ANYTHING, max_size=4).map(" ".join), min_size=1, max_size=5))
def test_lines_are_judged_alike_alone_and_among_others(lines):
    for format in (Libsvm(), Libffm(), VowpalWabbit(["a"])):
        together = format.decode([line.encode() for line in lines])
        alone = [format.decode([line.encode()]) for line in lines]
        assert rows_of(together) == [(i, row) for i, one in enumerate(alone) for _, row in rows_of(one)]
        assert [(r.index, r.reason) for r in together.rejects] == [
            (i, r.reason) for i, one in enumerate(alone) for r in one.rejects
        ]
        for line, one in zip(lines, alone, strict=True):
            assert one.batch.num_rows + len(one.rejects) == (1 if line.strip() else 0) or not line.strip()


def test_long_digits_are_refused_quickly():
    text = b"1" * 200_000
    decoded = Libsvm().decode([text + b"x", b"1 " + text + b":1", b"1 1:" + text + b"x"])
    assert len(decoded.rejects) == 3


def test_namespaces_are_those_of_the_first_lines():
    format = VowpalWabbit()
    assert format.schema().names == []
    decoded = format.decode([b"nonsense", b"1 |b x |label:2 y:3\n", b"| z"])
    names = [
        "label",
        "weight",
        "tag",
        "b",
        "b.values",
        "|label",
        "|label.values",
        "features",
        "features.values",
    ]
    assert format.schema().names == names
    assert decoded.batch["|label.values"].to_pylist() == [[6.0], []]
    assert format.decode([b"0 |new x |b y"]).batch["b"].to_pylist() == [["y"]]


@pytest.mark.parametrize("namespaces", [[], "ab", ["a", "a"], ["a", "a.values"]])
def test_wrong_namespaces_are_refused(namespaces):
    with pytest.raises(JobError):
        VowpalWabbit(namespaces)


def test_files_of_sparse_text_are_read_by_the_same_parsers(tmp_path):
    import threading

    (tmp_path / "a.vw").write_text("1 |a x:2 |b y\nbad\n\n-1 |b z\n")
    (tmp_path / "b.libsvm").write_text("1 3:4\n-1 # nothing\n")
    (tmp_path / "c.ffm").write_text("1 2:3:4\n")

    def read(name, **settings):
        stream = Files(tmp_path / name, **settings)
        return stream, list(stream.read({}, max_rows=10, stop=threading.Event()))

    stream, [chunk] = read("a.vw", columns=["label", "b", "a.values"])
    assert stream.schema().names == ["label", "a.values", "b"]
    assert chunk.batch.to_pylist() == [
        {"label": 1.0, "a.values": [2.0], "b": ["y"]},
        {"label": -1.0, "a.values": [], "b": ["z"]},
    ]
    assert chunk.ends.tolist() == [14, 27]
    assert [(r.position, r.reason) for r in chunk.rejects] == [(14, "a line without a bar")]
    assert read("b.libsvm")[1][0].batch["indices"].to_pylist() == [[3], []]
    assert read("c.ffm")[1][0].batch["fields"].to_pylist() == [[2]]
    assert read("c.ffm", format="libffm")[1][0].batch["values"].to_pylist() == [[4.0]]
    with pytest.raises(StreamError, match=r"leave out schema="):
        read("c.ffm", schema={"label": "int8"})

"""Decoding of JSON objects into columns, against Python's own json."""

import json
import math
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream import core
from onstream.errors import ShapeError
from onstream.streams.parsing.json_objects import JsonObjects

KINDS = {
    "flag": pa.bool_(),
    "tiny": pa.int8(),
    "whole": pa.int64(),
    "natural": pa.uint64(),
    "single": pa.float32(),
    "real": pa.float64(),
    "text": pa.string(),
    "numbers": pa.list_(pa.int32()),
    "words": pa.list_(pa.string()),
    "day": pa.date32(),
    "pair": pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))]),
    "é\n": pa.string(),
}
SCHEMA = pa.schema(list(KINDS.items()))
INVALID, NOT_OBJECT, TOO_DEEP, TWICE, MISFIT = range(1, 6)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.none() | st.booleans(),
        "tiny": st.none() | st.integers(-128, 127),
        "whole": st.none() | st.integers(-(2**63), 2**63 - 1),
        "natural": st.integers(0, 2**64 - 1),
        "single": st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
        "real": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30),
        "text": st.none() | TEXTS,
        "numbers": st.none() | st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), max_size=5),
        "words": st.lists(st.none() | TEXTS, max_size=4),
        "pair": st.none() | st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.lists(st.floats(0, 1))}),
        "é\n": TEXTS,
        "ignored": st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | TEXTS,
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
            max_leaves=8,
        ),
    },
)


def decode(texts: list[bytes], schema: pa.Schema = SCHEMA, max_depth: int = 64):
    batch, bad = JsonObjects(schema, max_depth).decode(texts)
    batch.validate(full=True)
    assert batch.schema == schema and batch.num_rows + len(bad) == len(texts)
    return batch, bad


def faults(texts: list[bytes], fields=(("n", "int64", False), ("s", "string", False)), max_depth: int = 64):
    return core.decode_json(texts, list(fields), max_depth)[2]


def expected(found: dict) -> dict:
    row = {name: found.get(name) for name in KINDS}
    for name in ("single", "real"):
        row[name] = None if row[name] is None else float(row[name])
    return row


@given(st.lists(OBJECTS, max_size=8), st.booleans(), st.sampled_from([None, 0, 2]), st.randoms())
def test_objects_are_decoded_as_json_loads_reads_them(objects, ascii_only, indent, shuffled):
    texts = []
    for found in objects:
        names = list(found)
        shuffled.shuffle(names)
        texts.append(
            json.dumps({n: found[n] for n in names}, ensure_ascii=ascii_only, indent=indent).encode()
        )
    batch, bad = decode(texts)
    assert not bad
    assert batch.to_pylist() == [expected(found) for found in objects]


@given(
    st.lists(st.binary(max_size=30) | OBJECTS.map(lambda o: json.dumps(o).encode()), max_size=6), st.data()
)
def test_mutated_bytes_are_taken_or_refused_as_json_loads_does(texts, data):
    mutated = []
    for text in texts:
        changed = bytearray(text)
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, max(0, len(changed) - 1)))
            new = data.draw(
                st.sampled_from([b"", b'"', b"{", b"}", b"[", b",", b"\\", b"0", b"\xc3", b"\x00", b"e"])
            )
            changed[at : at + data.draw(st.integers(0, 1))] = new
        mutated.append(bytes(changed))
    batch, bad = decode(mutated)
    good = [text for i, text in enumerate(mutated) if i not in bad]
    for row, text in zip(batch.to_pylist(), good, strict=True):
        found = loads(text)
        assert isinstance(found, dict)
        got = {n: v for n, v in row.items() if v is not None and n not in ("day", "pair", "single")}
        assert got == {n: float(v) if n == "real" else v for n, v in found.items() if n in got}
    for i, reason in bad.items():
        found = loads(mutated[i])
        if reason == "not valid JSON":
            assert found is INVALID
        else:
            assert found is not INVALID, reason


def loads(text: bytes):
    """Read what RFC 8259 calls JSON: Python also takes NaN, other encodings, byte order marks and lone surrogates."""

    def refuse(word):
        raise ValueError(word)

    try:
        text.decode()
        found = json.loads(text.decode(), parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()
    except ValueError:
        return INVALID
    return found


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b" ",
            b"{",
            b"}",
            b'{"n"}',
            b'{"n":}',
            b'{"n":1,}',
            b"{,}",
            b'{"n":1 "s":2}',
            b'{"n":1}{"n":2}',
        ),
        *(
            b'{"n":1}\x00',
            b'{"n":01}',
            b'{"n":+1}',
            b'{"n":.5}',
            b'{"n":1.}',
            b'{"n":1e}',
            b'{"n":-}',
            b'{"n":0x1}',
        ),
        *(
            b'{"n":NaN}',
            b'{"n":nul}',
            b'{"n":nulll}',
            b"{'n':1}",
            b'{"s":"a\nb"}',
            b'{"s":"\\x"}',
            b'{"s":"\\u12g4"}',
        ),
        *(
            b'{"s":"\\ud800"}',
            b'{"s":"\\udc00"}',
            b'{"s":"\\ud800\\u0041"}',
            b'{"s":"\xff"}',
            b'{"s":"\xc0\x80"}',
        ),
        *(
            b'{"s":"\xed\xa0\x80"}',
            b'{"s":"\xf4\x90\x80\x80"}',
            b'{"x":"\xc3"}',
            b'{"\xff":1}',
            b'{"x":[1,]}',
        ),
        *(
            b'{"x":{"y":1,}}',
            b'{"x":[1}',
            b'{"s":"abc',
            b'{"s":"abc\\',
            b'{"s":"abc\\u12',
            b'\xef\xbb\xbf{"n":1}',
        ),
        b'{"n":"x","s":1',
    ],
)
def test_what_is_not_json_is_told(text):
    assert faults([b'{"n":1,"s":"x"}', text, b'{"n":2}']) == [(1, INVALID, -1)]


@pytest.mark.parametrize("text", [b"[]", b"1", b'"x"', b"null", b" true ", b"[{}]"])
def test_what_is_no_object_is_told(text):
    assert faults([text]) == [(0, NOT_OBJECT, -1)]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b'{"n":1.0}', (0, MISFIT, 0)),
        (b'{"n":1e3}', (0, MISFIT, 0)),
        (b'{"n":"1"}', (0, MISFIT, 0)),
        (b'{"n":9223372036854775808}', (0, MISFIT, 0)),
        (b'{"n":-9223372036854775809}', (0, MISFIT, 0)),
        (b'{"n":123456789012345678901234567890}', (0, MISFIT, 0)),
        (b'{"s":1,"n":"x"}', (0, MISFIT, 0)),
        (b'{"s":[1]}', (0, MISFIT, 1)),
        (b'{"s":true,"s":"x"}', (0, TWICE, 1)),
        (b'{"n":1,"n":1}', (0, TWICE, 0)),
        (b'{"n":1,"\\u006e":1}', (0, TWICE, 0)),
    ],
)
def test_what_does_not_fit_names_its_column(text, fault):
    assert faults([text]) == [fault]
    assert faults([text + b"!"]) == [(0, INVALID, -1)]


def test_names_that_are_not_wanted_may_repeat():
    assert faults([b'{"x":1,"x":[2],"n":3}']) == []


@pytest.mark.parametrize("wide", [1, 2, 8, 200])
def test_depth_is_bounded_to_the_level(wide):
    deep = b'{"x":' + b"[" * (wide - 1) + b"]" * (wide - 1) + b',"n":1}' if wide > 1 else b'{"n":1}'
    assert faults([deep], max_depth=wide) == []
    if wide > 1:
        assert faults([deep], max_depth=wide - 1) == [(0, TOO_DEEP, -1)]
    assert faults([b"[" * 100_000], max_depth=512) == [(0, TOO_DEEP, -1)]
    lists = [("x", "int64", True)]
    assert faults([b'{"x":[1]}'], lists, max_depth=1) == [(0, TOO_DEEP, -1)]
    assert faults([b'{"x":[1]}'], lists, max_depth=2) == []


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_floats_are_the_nearest_to_what_is_written(kind):
    draw = random.Random(0)
    texts = [
        f"{draw.randrange(10 ** draw.randrange(1, 22))}e{draw.randrange(-340, 310)}" for _ in range(2000)
    ]
    texts += [f"{draw.random() * 10 ** draw.randrange(-20, 20):.{draw.randrange(20)}f}" for _ in range(2000)]
    texts += ["0.0", "-0", "0e999999", "5e-324", "1.7976931348623157e308", "0." + "0" * 400 + "1"]
    largest = np.finfo(kind.to_pandas_dtype()).max
    with np.errstate(over="ignore"):
        nearest = [kind.to_pandas_dtype()(text) for text in texts]
    batch, bad = decode([b'{"x":%s}' % text.encode() for text in texts], pa.schema([("x", kind)]))
    assert set(bad.values()) <= {"column 'x': not a number"}
    assert sorted(bad) == [i for i, value in enumerate(nearest) if value > largest]
    got = batch.column(0).to_numpy(zero_copy_only=False)
    assert np.array_equal(got, np.array([v for v in nearest if v <= largest], got.dtype))
    assert math.copysign(1, got[texts.index("-0") - sum(i < texts.index("-0") for i in bad)]) == -1


def test_what_a_bad_object_began_is_taken_back():
    schema = pa.schema([("l", pa.list_(pa.string())), ("s", pa.string()), ("n", pa.int8())])
    texts = [
        b'{"l":["a",null],"s":"x","n":1}',
        b'{"l":["bad","worse',
        b'{"l":["bad"],"s":"bad","n":999}',
        b'{"s":"y","l":[]}',
        b'{"l":["bad",7],"s":"bad"}',
        b'{"l":["b"]}',
    ]
    batch, bad = decode(texts, schema)
    assert batch.to_pydict() == {"l": [["a", None], [], ["b"]], "s": ["x", "y", None], "n": [1, None, None]}
    assert list(bad) == [1, 2, 4]


def test_nested_values_that_do_not_fit_cost_only_their_row():
    schema = pa.schema([("p", pa.struct([("a", pa.int64())])), ("t", pa.timestamp("us"))])
    texts = [
        b'{"p":{"a":1},\n"t":"2024-01-01T00:00:00"}',
        b'{"p":{"a":"x"}}',
        b'{"p":\r\n{"a"\n:2}}',
        b'{"t":"never"}',
        b"nonsense",
        b'{"p":null}',
    ]
    batch, bad = decode(texts, schema)
    assert batch.column(0).to_pylist() == [{"a": 1}, {"a": 2}, None]
    assert bad == {
        1: "column 'p': not of type struct<a: int64>",
        3: "column 't': not of type timestamp[us]",
        4: "not valid JSON",
    }


def test_parts_of_one_text_are_texts():
    text = b'xx{"n":1}{"n":2}yy'
    fields = [("n", "int64", False)]
    rows, [(count, *_, values, _)], rejects = core.decode_json(
        text, fields, 9, np.array([2, 9, 0]), np.array([9, 16, 2])
    )
    assert (rows, count, rejects) == (2, 2, [(2, INVALID, -1)])
    assert np.frombuffer(values, np.int64).tolist() == [1, 2]
    with pytest.raises(ShapeError, match="outside"):
        core.decode_json(text, fields, 9, np.array([2]), np.array([19]))
    with pytest.raises(ShapeError, match="as many"):
        core.decode_json(text, fields, 9, np.array([2]), np.array([], np.int64))
    with pytest.raises(ShapeError, match="must be bytes"):
        core.decode_json(["{}"], fields, 9)


@settings(max_examples=30)
@given(
    st.lists(
        st.sampled_from([b'{"a":"x","b":1}', b'{"b":2,"a":"y"}', b'{"c":[],"a":"z"}', b'{"a" : "w"}', b"{}"])
    )
)
def test_objects_of_changing_shape_are_read_alike(texts):
    batch, bad = decode(texts, pa.schema([("a", pa.string()), ("b", pa.int64())]))
    assert not bad
    assert batch.to_pylist() == [{"a": o.get("a"), "b": o.get("b")} for o in map(json.loads, texts)]


def test_long_strings_and_many_rows_fill_their_columns():
    words = ["é" * (i % 300) + '\\"\t' * (i % 3) for i in range(3000)] + ["x" * 100_000, "y" * 70_000 + "\n"]
    texts = [json.dumps({"text": w, "é\n": w}, ensure_ascii=i % 2 == 0).encode() for i, w in enumerate(words)]
    batch, bad = decode(texts)
    assert not bad
    assert batch["text"].to_pylist() == words == batch["é\n"].to_pylist()

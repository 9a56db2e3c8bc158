"""Tensors of BYTES: both ways of finding elements agree, and nothing wrong is taken."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream.errors import RequestError
from onstream.serving.oip import texts
from onstream.serving.oip.texts import Framed, read_texts


def frame(elements: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def framed(*inputs: list[bytes]) -> list[Framed]:
    return [Framed(f"in{at}", frame(elements), len(elements)) for at, elements in enumerate(inputs)]


def values(inputs: list[Framed]) -> list[list[str | None]]:
    return [column.to_pylist() for column in read_texts(inputs)]


_IDS = st.lists(
    st.binary(max_size=300) | st.sampled_from([b"", b"\0", b"\0\0\0", b"id", b"x" * 256]), max_size=40
)


@given(st.lists(_IDS, min_size=1, max_size=4))
def test_what_is_found_at_once_is_what_is_found_one_by_one(inputs):
    given_inputs = framed(*inputs)
    raw = b"".join(one.raw for one in given_inputs)
    walked = texts._walk(raw, given_inputs)
    if len(walked):
        found = texts._find(np.frombuffer(raw, np.uint8), given_inputs)
        assert found is None or found.tolist() == walked.tolist()


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_short_texts_without_nul_are_found_at_once(inputs):
    encoded = framed(*[[one.encode() for one in elements] for elements in inputs])
    raw = np.frombuffer(b"".join(one.raw for one in encoded), np.uint8)
    assert texts._find(raw, encoded) is not None
    assert values(encoded) == [[one or None for one in elements] for elements in inputs]


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_alike_by_both_ways_or_refused(raw, elements):
    given_inputs = [Framed("x", raw, elements)]
    if len(raw) < 4 * elements or not elements:
        return
    found = texts._find(np.frombuffer(raw, np.uint8), given_inputs)
    try:
        walked = texts._walk(raw, given_inputs)
    except RequestError:
        assert found is None
    else:
        assert found is None or found.tolist() == walked.tolist()


@pytest.mark.parametrize("many", [1, 1000])
def test_texts_with_nul_bytes_and_long_ones_are_read_too(many):
    elements = [b"a\0\0\0b", b"", b"x" * 70_000, "µ".encode(), b"\0\0\0\0"] * many
    assert values(framed(elements)) == [[one.decode() or None for one in elements]]


@pytest.mark.parametrize("many", [1, 1000])
@pytest.mark.parametrize(
    "raw",
    [
        frame([b"a", b"b"])[:-1],
        frame([b"a", b"b"]) + b"c",
        struct.pack("<I", 2**32 - 1) + frame([b"abcd"])[4:],
        frame([b"a"]) + struct.pack("<I", 2) + b"b",
    ],
)
def test_lengths_that_do_not_add_up_are_refused(raw, many):
    before = frame([b"id"] * (many - 1))
    with pytest.raises(RequestError, match=r"input 'x': the lengths of its .* do not add up to its"):
        read_texts([Framed("x", before + raw, many + 1)])


def test_elements_may_not_reach_into_the_next_input():
    raw = frame([b"ab"] * 400)
    with pytest.raises(RequestError, match="input 'a'"):
        read_texts([Framed("a", raw[:-1], 400), Framed("b", raw[-1:] + raw, 401)])
    with pytest.raises(RequestError, match="input 'a'"):
        read_texts([Framed("a", raw + raw[:6], 400), Framed("b", raw[6:], 400)])


def test_more_elements_than_the_bytes_can_hold_are_refused_before_any_is_read():
    with pytest.raises(RequestError, match="cannot hold as many lengths"):
        read_texts([Framed("x", b"1234", 2**40)])


@pytest.mark.parametrize("many", [1, 1000])
def test_bytes_that_are_no_utf8_are_refused_even_if_they_are_when_joined(many):
    good = Framed("good", frame([b"id"] * many), many)
    split = Framed("bad", frame(["é".encode()[:1], "é".encode()[1:]]), 2)
    with pytest.raises(RequestError, match="input 'bad' holds bytes that are not UTF-8"):
        read_texts([good, split])

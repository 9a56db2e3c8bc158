"""Hashing of Arrow columns to keys."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream import core
from onstream.errors import ColumnError, ShapeError

INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]


def keys_of(column: pa.Array, salt: int = 7) -> list[int]:
    out = np.zeros(len(column), np.uint64)
    assert core.hash_column(column, salt, out) is None
    return out.tolist()


@given(st.lists(st.integers(0, 127)), st.sampled_from(INTEGERS), st.sampled_from(TEXTS))
def test_an_integer_and_its_decimal_text_are_the_same_id_in_every_type(values, integer, text):
    texts = pa.array([str(v) for v in values]).cast(text)
    assert keys_of(pa.array(values, integer)) == keys_of(texts)


@given(st.integers(-(2**63), 2**64 - 1))
def test_every_64_bit_integer_meets_its_text(value):
    column = pa.array([value], pa.uint64() if value >= 2**63 else pa.int64())
    assert keys_of(column) == keys_of(pa.array([str(value)])) == [core.hash_value(value, 7)]


@pytest.mark.parametrize("text", ["042", "+42", "-0", "", "4.0", " 42", "42 ", "0x2a", "-", "00"])
def test_text_that_is_no_canonical_decimal_is_an_id_of_its_own(text):
    numbers = {core.hash_value(n, 7) for n in (0, 42, 4)}
    assert core.hash_value(text, 7) not in numbers


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=60), st.sampled_from(TEXTS))
def test_a_column_hashes_like_its_values_one_by_one(values, kind):
    column = pa.array([None if v is None else v.encode() for v in values], pa.binary()).cast(kind)
    assert keys_of(column) == [core.hash_value(v, 7) for v in values]


@given(st.lists(st.one_of(st.none(), st.integers(-100, 100)), min_size=1), st.data())
def test_a_slice_hashes_like_the_same_rows_of_the_whole(values, data):
    start = data.draw(st.integers(0, len(values)))
    for column in (
        pa.array(values, pa.int32()),
        pa.array([None if v is None else f"v{v}" for v in values], pa.string()),
        pa.array([None if v is None else f"v{v}" for v in values], pa.string()).dictionary_encode(),
        pa.array([None if v is None else v > 0 for v in values], pa.bool_()),
    ):
        assert keys_of(column.slice(start)) == keys_of(column)[start:]


def test_a_dictionary_hashes_like_its_plain_column():
    plain = pa.array(["a", None, "b", "a", "7"])
    assert keys_of(plain.dictionary_encode()) == keys_of(plain)
    with_null_value = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array([None, "b"]))
    assert keys_of(with_null_value) == keys_of(pa.array([None, "b", None]))


def test_whole_floats_are_the_integers_they_equal_and_nan_is_null():
    assert keys_of(pa.array([5.0, -3.0, None])) == keys_of(pa.array([5, -3, None]))
    assert keys_of(pa.array([float("nan")])) == keys_of(pa.array([None], pa.int64()))


def test_a_float_with_a_fraction_and_a_long_text_are_faults_and_the_rest_is_hashed():
    out = np.zeros(3, np.uint64)
    assert core.hash_column(pa.array([1.0, 1.5, float("inf")]), 7, out).tolist() == [0, 2, 2]
    assert out[0] == core.hash_value(1, 7)
    assert core.hash_column(pa.array(["ab", "abc", None]), 7, out, max_bytes=2).tolist() == [0, 1, 0]


def test_a_ten_megabyte_text_is_a_fault_by_default():
    assert core.hash_column(pa.array(["x" * 10_000_000]), 7, np.zeros(1, np.uint64)).tolist() == [1]


def test_nulls_and_salts_have_keys_of_their_own():
    salts = [core.salt(name) for name in ("user", "item", "")]
    assert len({core.hash_value(v, s) for v in (None, 0, 1, "", "null") for s in salts}) == 15


def test_keys_go_into_a_strided_view():
    block = np.zeros((3, 2), np.uint64)
    core.hash_column(pa.array([1, 2, 3]), 7, block[:, 1])
    assert block[:, 0].tolist() == [0, 0, 0]
    assert block[:, 1].tolist() == keys_of(pa.array([1, 2, 3]))


def test_a_million_texts_and_integers_do_not_collide():
    texts = keys_of(pa.array([f"user-{i}" for i in range(500_000)]))
    integers = keys_of(pa.array(np.arange(500_000)))
    assert len({*texts, *integers}) == 1_000_000


def test_every_bit_of_a_key_depends_on_every_byte_of_a_text():
    for size in (1, 3, 4, 7, 8, 15, 16, 17, 33, 100):
        base = bytes(size)
        flips = np.array(
            [core.hash_value(base, 7) ^ core.hash_value(_with_bit(base, b), 7) for b in range(8 * size)]
        )
        changed = np.unpackbits(flips.astype(np.uint64).view(np.uint8)).mean()
        assert 0.4 < changed < 0.6, size


def _with_bit(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


@pytest.mark.parametrize("column", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([1.5], pa.float16())])
def test_a_type_that_is_no_id_is_named(column):
    with pytest.raises(ColumnError, match="cannot be an id"):
        core.hash_column(column, 7, np.zeros(1, np.uint64))


def test_a_wrong_length_is_refused():
    with pytest.raises(ShapeError, match="2 rows, the column 1"):
        core.hash_column(pa.array([1]), 7, np.zeros(2, np.uint64))

import pyarrow as pa
import pytest
from encoded import encode, keys_of, reasons, rows
from hypothesis import given
from hypothesis import strategies as st

from onstream.core import hash_value, salt
from onstream.features import Features, Id, IdList, Label

LIST_TYPES = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]
LISTS = st.lists(st.none() | st.lists(st.none() | st.integers(-5, 5), max_size=4))


def one(column, **settings):
    features = Features([IdList("tags", **settings), Label("y")])
    batch = encode(features, rows(tags=column))
    return keys_of(features, batch, "tags"), batch


def model(lists):
    return [[hash_value(v, salt("tags")) for v in x or [] if v is not None] for x in lists]


@pytest.mark.parametrize("make", LIST_TYPES, ids=lambda make: make.__name__)
@given(lists=LISTS, data=st.data())
def test_keys_are_those_of_the_elements_that_are_there(make, lists, data):
    column = pa.array(lists, make(pa.int64()))
    first = data.draw(st.integers(0, len(lists)))
    last = data.draw(st.integers(first, len(lists)))
    assert one(column[first:last])[0] == model(lists[first:last])


@given(st.lists(st.none() | st.lists(st.none() | st.integers(), min_size=2, max_size=2).map(tuple)))
def test_lists_of_fixed_size_are_lists(lists):
    lists = [x and tuple(v and v % 1000 for v in x) for x in lists]
    assert one(pa.array(lists, pa.list_(pa.int64(), 2)))[0] == model(lists)
    assert one(pa.array(lists, pa.list_(pa.int64(), 2))[1:])[0] == model(lists[1:])


@given(LISTS, st.integers(1, 5))
def test_padding_cuts_long_lists_and_fills_short_ones_with_key_0(lists, length):
    keys, batch = one(pa.array(lists, pa.list_(pa.int64())), pooling="pad", length=length)
    assert keys == [(x + [0] * length)[:length] for x in model(lists)]
    assert batch.offsets == {}


def test_texts_are_split_at_the_separator_and_mean_the_same_as_lists():
    lists = [["a", "7"], [], None, ["b"], ["c", "d"]]
    texts = ["a|7", "", None, "b", "|c||d|"]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        assert one(pa.array(texts, kind), separator="|")[0] == model(lists)
    assert one(lists, separator="|")[0] == model(lists)
    assert model([[7]])[0][0] == model(lists)[0][1]


def test_without_a_separator_a_text_is_no_list():
    _, batch = one(["a|b"])
    assert batch.num_rows == 0
    assert reasons(batch) == [
        (0, "column 'tags': string cannot be read as lists of ids; give the separator of its elements")
    ]


def test_elements_may_be_dictionary_encoded():
    column = pa.ListArray.from_arrays([0, 2, 3], pa.array(["a", "b", "a"]).dictionary_encode())
    assert one(column)[0] == model([["a", "b"], ["a"]])


def test_nan_among_floats_is_a_null_and_is_skipped():
    assert one([[1.0, float("nan")], [None, 2.0]])[0] == model([[1], [2]])
    assert one([[1.0, float("nan")], [2.0]])[0] == model([[1], [2]])


def test_a_list_of_lists_is_no_list_of_ids():
    _, batch = one([[[1]]])
    assert reasons(batch) == [(0, "column 'tags': list<item: int64> cannot be read as ids")]


def test_a_column_of_nulls_is_empty_lists():
    assert one(pa.nulls(2))[0] == [[], []]


def test_a_list_beyond_max_length_is_a_reject_and_the_others_stay():
    keys, batch = one([[1], [1, 2, 3], None, [4, 5]], max_length=2)
    assert keys == model([[1], None, [4, 5]])
    assert reasons(batch) == [(1, "column 'tags': more than 2 elements")]
    _, batch = one([list(range(10_000)), list(range(10_001))])
    assert reasons(batch) == [(1, "column 'tags': more than 10000 elements")]


@pytest.mark.parametrize("settings", [{}, {"pooling": "pad", "length": 2}], ids=["sum", "pad"])
def test_a_bad_element_rejects_its_row_only(settings):
    keys, batch = one([["a"], [], ["b", "x" * 65_537], ["c"]], **settings)
    want = model([["a"], [], ["c"]])
    assert keys == (want if not settings else [[*x, 0, 0][:2] for x in want])
    assert reasons(batch) == [(2, "column 'tags': longer than 65536 bytes")]
    assert one([[1.0, 2.5], [3.0]])[0] == model([[3]])


def test_lists_of_one_table_follow_its_ids_in_the_order_of_the_fields():
    features = Features(
        [
            IdList("history", shared="item"),
            Id("item"),
            IdList("tags", pooling="pad", length=2),
            Id("user"),
            IdList("words", pooling="mean"),
            Label("y"),
        ]
    )
    batch = encode(
        features,
        rows(item=[1, 2], user=[3, 4], history=[[1, 2], [1]], tags=[["a"], None], words=[[], ["w"]]),
    )

    def key(name, value):
        return hash_value(value, salt(name))

    assert batch.keys["d16"].tolist() == [
        *(key("item", 1), key("user", 3), key("item", 2), key("user", 4)),
        *(key("item", 1), key("item", 2), key("item", 1)),
        *(key("tags", "a"), 0, 0, 0),
        key("words", "w"),
    ]
    assert batch.offsets["history"].tolist() == [0, 2, 3]
    assert batch.offsets["words"].tolist() == [0, 0, 1]
    assert set(batch.offsets) == {"history", "words"}

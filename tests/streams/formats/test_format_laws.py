"""What holds of every format."""

import pytest
from format_cases import cases, expected, rows_of
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.errors import JobError
from onstream.streams.formats import Format

CASES = cases()
every_format = pytest.mark.parametrize("name", CASES)


@every_format
def test_good_messages_become_their_rows(name):
    case = CASES[name]
    decoded = case.format.decode(case.good)
    assert rows_of(decoded) == expected(case.rows, list(range(len(case.good))))
    assert not decoded.rejects
    assert decoded.batch.schema == case.format.schema()
    assert isinstance(case.format, Format)


@every_format
def test_nothing_gives_nothing(name):
    case = CASES[name]
    for messages in ([], [None], [None, None]):
        decoded = case.format.decode(messages)
        assert rows_of(decoded) == [] and not decoded.rejects


@every_format
def test_bad_messages_and_tombstones_cost_only_themselves(name):
    case = CASES[name]
    messages: list[bytes | None] = []
    places, bad = [], []
    for i, good in enumerate(case.good):
        for some in (None, *case.bad):
            if some is not None:
                bad.append(len(messages))
            messages.append(some)
        places.append(len(messages))
        messages.append(good)
        assert i == len(places) - 1
    decoded = case.format.decode(messages)
    assert rows_of(decoded) == expected(case.rows, places)
    assert sorted({reject.index for reject in decoded.rejects}) == bad


@every_format
def test_a_cause_has_one_reason_wherever_it_stands(name):
    case = CASES[name]
    for bad in case.bad:
        [alone] = {r.reason for r in case.format.decode([bad]).rejects}
        among = case.format.decode([case.good[0], bad, *case.bad, *case.good])
        assert {r.reason for r in among.rejects if r.index == 1} == {alone}


@every_format
@settings(max_examples=30)
@given(data=st.data())
def test_mutated_bytes_neither_crash_nor_move_rows(name, data):
    case = CASES[name]
    mutated = []
    for _ in range(data.draw(st.integers(1, 4))):
        text = bytearray(data.draw(st.sampled_from(case.good)))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(text)))
            text[at : at + data.draw(st.integers(0, 3))] = data.draw(
                st.binary(max_size=3) | st.sampled_from([b"\n", b'"', b"\xff" * 8, b"\x80" * 4, b"\x7f"])
            )
        mutated.append(bytes(text))
    first, last = case.good[0], case.good[-1]
    found = rows_of(case.format.decode([first, *mutated, last]))
    alone = [rows_of(case.format.decode([text])) for text in mutated]
    between = [(i, row) for i, rows in enumerate(alone, start=1) for _, row in rows]
    # NaN differs from itself.
    assert repr(found) == repr(
        expected([case.rows[0]], [0]) + between + expected([case.rows[-1]], [len(mutated) + 1])
    )


@every_format
def test_only_selected_columns_are_given(name):
    case = CASES[name]
    columns = case.format.schema().names[:2]
    chosen = case.format.select([*reversed(columns), columns[0]])
    assert chosen.schema().names == columns
    rows = [[{c: row[c] for c in columns} for row in rows] for rows in case.rows]
    assert rows_of(chosen.decode(case.good)) == expected(rows, list(range(len(case.good))))
    assert case.format.schema().names[:2] == columns and len(case.format.schema()) > len(columns)


@every_format
def test_long_messages_are_rejected(name):
    case = CASES[name]
    [longest] = [max(map(len, case.good))]
    object.__setattr__(
        limited := case.format.select(case.format.schema().names), "max_message_bytes", longest
    )
    long = case.good[0] + b" " * longest
    decoded = limited.decode([long, *case.good])
    assert rows_of(decoded) == expected(case.rows, list(range(1, len(case.good) + 1)))
    assert [(r.index, r.reason) for r in decoded.rejects] == [(0, f"message longer than {longest} bytes")]


@every_format
def test_equal_descriptions_are_equal_formats(name):
    case = CASES[name]
    assert repr(case.format).startswith(type(case.format).__name__)
    assert case.format.select(["a"]) == case.format.select(["a"]) != case.format.select(["b"])


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_limits_are_whole_numbers_from_one(limit):
    from onstream.streams.formats import Csv, Json, Libsvm, VowpalWabbit

    for make in (Json, Csv, Libsvm, VowpalWabbit):
        with pytest.raises(JobError, match="max_message_bytes must be a whole number"):
            make(max_message_bytes=limit)
    with pytest.raises(JobError, match="max_depth must be at most 512"):
        Json(max_depth=513)


def test_an_arrow_message_with_a_name_that_is_no_text_is_rejected():
    case = CASES["arrow"]
    name = case.format.schema().names[0].encode()
    bad = case.good[0].replace(name, b"\xff" * len(name))
    assert bad != case.good[0]
    decoded = case.format.decode([case.good[0], bad])
    assert [reject.index for reject in decoded.rejects] == [1]

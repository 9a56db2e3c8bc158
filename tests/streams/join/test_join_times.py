"""Event times and keys are read from whatever columns hold them."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from onstream.errors import ColumnError, JobError
from onstream.streams.join.keys import first_of_each, read_keys
from onstream.streams.join.sizes import size_bytes
from onstream.streams.join.times import read_times

NOON = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
NOON_US = int(NOON.timestamp()) * 10**6


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        (pa.array([NOON], pa.timestamp("us", "UTC")), "s"),
        (pa.array([NOON], pa.timestamp("ns", "Europe/Berlin")), "s"),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), "s"),
        (pa.array([NOON_US // 10**6]), "s"),
        (pa.array([NOON_US // 10**6], pa.uint64()), "s"),
        (pa.array([NOON_US / 10**3]), "ms"),
        (pa.array([NOON_US]), "us"),
        (pa.array([NOON_US * 1000]), "ns"),
        (pa.array(["2024-05-01T12:00:00Z"]), "s"),
        (pa.array(["2024-05-01 14:00:00.000+02:00"], pa.large_string()), "s"),
        (pa.array(["2024-05-01T12:00:00"]), "s"),
    ],
)
def test_the_same_moment_is_read_from_each_form(column, unit):
    times, bad = read_times(column, unit)
    assert (times.tolist(), bad) == ([NOON_US], None)


def test_a_date_is_its_midnight():
    assert read_times(pa.array([datetime.date(2024, 5, 1)]))[0].tolist() == [NOON_US - 12 * 3_600 * 10**6]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, 1e300, float("nan"), float("inf"), 5.0]),
        pa.array([None, 1 << 62, -(1 << 62), 1 << 61, 5]),
        pa.array([None, (1 << 64) - 1, 1 << 63, 1 << 60, 5], pa.uint64()),
        pa.array([None, "soon", "", "2024-13-01T00:00:00Z", "1970-01-01T00:00:05Z"]),
    ],
)
def test_what_is_no_time_is_told(column):
    times, bad = read_times(column)
    assert bad.tolist() == [True, True, True, True, False]
    assert times[-1] == 5_000_000


def test_a_column_that_holds_no_times_is_refused():
    with pytest.raises(ColumnError, match=r"list.* cannot be read as event time"):
        read_times(pa.array([[1]]))


def test_a_number_and_its_text_are_one_key():
    numbers, _ = read_keys(pa.array([7, -1, 1 << 62]))
    texts, _ = read_keys(pa.array(["7", "-1", str(1 << 62)]))
    assert np.array_equal(numbers.hashes, texts.hashes)
    assert np.array_equal(numbers.checks, texts.checks)


def test_rows_without_a_key_are_told():
    assert read_keys(pa.array(["a", None]))[1].tolist() == [False, True]
    assert read_keys(pa.array([1.0, 0.5, float("nan"), None]))[1].tolist() == [False, True, True, True]
    assert read_keys(pa.array(["a"]))[1] is None


def test_the_first_row_of_each_key_is_found():
    keys, _ = read_keys(pa.array(["a", "b", "a", "c", "b", "a"]))
    assert first_of_each(keys).tolist() == [True, True, False, True, False, False]
    # Two keys whose first hashes agree are told apart by the second.
    same = keys._replace(hashes=np.zeros(6, np.uint64))
    assert first_of_each(same).tolist()[:2] == [True, True]


def test_sizes_are_read_as_people_write_them():
    assert [size_bytes(s) for s in (5, "5", "2KB", "1.5 MB", "512MiB", "1gb")] == [
        5,
        5,
        2_000,
        1_500_000,
        512 << 20,
        10**9,
    ]
    for wrong in ("0", "-1", "much", True, 0):
        with pytest.raises(JobError, match="expected a number of bytes"):
            size_bytes(wrong)

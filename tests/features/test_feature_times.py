import datetime
import math

import pyarrow as pa
import pytest
from encoded import encode, reasons, rows

from onstream.features import EventTime, Features, Id, Label

MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
SECONDS = int(MOMENT.timestamp())
EAST = datetime.timezone(datetime.timedelta(hours=5))


def timed(unit="s"):
    return Features([Id("u"), Label("y"), EventTime("t", unit)])


def one(column, unit="s"):
    return encode(timed(unit), rows(u=[1] * len(column), t=column))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("s")),
        pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("ns")),
        pa.array([MOMENT], pa.timestamp("ms", "UTC")),
        pa.array([MOMENT], pa.timestamp("us", "Asia/Tokyo")),
        pa.array([SECONDS]),
        pa.array([SECONDS], pa.uint32()),
        pa.array([SECONDS + 0.75]),
        pa.array([MOMENT.isoformat()]),
        pa.array(["2024-05-06 07:08:09"]),
        pa.array(["2024-05-06T07:08:09.75Z"], pa.large_string()),
        pa.array([MOMENT.astimezone(EAST).isoformat()]).dictionary_encode(),
        pa.array(["2024-05-06T07:08:09.123456789+00:00"]),
        pa.array([0, SECONDS, 0])[1:2],
    ],
    ids=lambda column: f"{column.type} {column[0]}",
)
def test_a_time_is_read_from_every_type(column):
    assert one(column).now == SECONDS


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_numbers_are_in_the_unit_that_is_declared(unit, per_second):
    assert one([SECONDS * per_second + per_second - 1], unit).now == SECONDS
    assert one([float(SECONDS * per_second)], unit).now == SECONDS


def test_a_date_is_its_first_second():
    midnight = SECONDS - SECONDS % 86_400
    for column in (pa.array([MOMENT.date()]), pa.array([MOMENT.date()], pa.date64()), ["2024-05-06"]):
        assert one(column).now == midnight


def test_now_is_the_newest_time_of_the_rows_that_are_kept():
    batch = encode(timed(), rows(u=[1, 2.5, 3], t=[100, 300, 200]))
    assert batch.now == 200


def test_a_null_takes_the_time_of_its_neighbours_or_of_the_batch_before():
    features = timed()
    assert encode(features, rows(u=[1], t=pa.array([None], pa.int64()))).now == 0
    assert encode(features, rows(u=[1, 2], t=[None, 100])).now == 100
    assert encode(features, rows(u=[1], t=pa.nulls(1))).now == 100
    assert encode(features, rows(u=[1], t=[math.nan])).now == 100
    assert encode(features, rows(u=[1], t=[50])).now == 50


@pytest.mark.parametrize(
    "bad",
    [-1, 2**32, 1e20, math.inf, "yesterday", "1969-12-31", "2024-13-01", "2107-01-01T00:00:00Z", ""],
)
def test_what_is_no_time_from_1970_to_2106_is_a_reject(bad):
    good = "2024-05-06" if isinstance(bad, str) else 5
    batch = one([good, bad])
    assert batch.num_rows == 1
    assert reasons(batch) == [(1, "column 't': not a time from 1970 to 2106")]


def test_times_with_and_without_a_zone_may_stand_in_one_column():
    east = MOMENT.astimezone(EAST)
    for text in (east.isoformat(), "2024-05-06T07:08:09"):
        assert one(["2024-01-01", None, text, "2024-01-01T00:00:00Z"]).now == SECONDS


def test_a_list_is_no_time():
    assert reasons(one([[1]])) == [(0, "column 't': list<item: int64> cannot be read as times")]


def test_without_an_event_time_now_is_0():
    features = Features([Id("u"), Label("y")])
    assert encode(features, rows(u=[1], t=[100])).now == 0

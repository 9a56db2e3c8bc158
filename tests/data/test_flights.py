"""What data/README.md says about flights.parquet is true of the file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

FLIGHTS = Path(__file__).parents[2] / "data" / "flights.parquet"


@pytest.fixture(scope="module")
def flights():
    return pq.read_table(FLIGHTS)


def test_rows_follow_scheduled_departure_and_ties_do_not_follow_the_actual_one(flights):
    keys = flights.select(["scheduled", "carrier", "flight", "origin"])
    assert keys.equals(keys.sort_by([(name, "ascending") for name in keys.column_names]))
    assert keys.group_by(keys.column_names).aggregate([]).num_rows == flights.num_rows == 336_776


def test_nothing_measured_after_departure_is_in_the_file(flights):
    after = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"}
    assert after.isdisjoint(flights.column_names)


def test_the_label_is_missing_exactly_where_a_flight_did_not_arrive(flights):
    arrived = pc.equal(flights["outcome"], "arrived")
    assert pc.is_valid(flights["late"]).equals(arrived)
    assert pc.is_valid(flights["arrived"]).equals(arrived)
    assert flights["late"].value_counts().to_pylist() == [
        {"values": 0, "counts": 249_716},
        {"values": 1, "counts": 77_630},
        {"values": None, "counts": 9_430},
    ]


def test_the_local_clock_on_arrival_agrees_with_the_schedule_and_the_label(flights):
    # All airports of one time zone are enough: the arithmetic is the same everywhere.
    east = flights.filter(
        pc.and_(pc.is_in(flights["dest"], pa.array(["ATL", "BOS", "MCO", "MIA"])), flights["late"].is_valid())
    )
    local = pc.local_timestamp(pc.cast(east["arrived"], pa.timestamp("ms", "America/New_York"))).to_numpy()
    shown = (local - local.astype("datetime64[D]")).astype("timedelta64[m]").astype(int)
    planned = east["sched_arr_time"].to_numpy().astype(int)
    planned = planned // 100 * 60 + planned % 100
    delay = (shown - planned + 180) % 1440 - 180
    agrees = (delay > 15) == (east["late"].to_numpy() == 1)
    # Delays beyond 21 hours look like early arrivals on a clock.
    assert np.count_nonzero(~agrees) <= 2

"""Make data/flights.parquet, the demo's stream, from the nycflights13 tables.

Usage::

    python scripts/flights.py SOURCE_DIR OUT

`SOURCE_DIR` holds flights.csv.zst, weather.csv.zst and airports.csv. The columns of `OUT` and the decisions
behind them are written down in data/README.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

LATE_MINUTES = 15
ROW_GROUP_ROWS = 32_768
HOUR = np.timedelta64(1, "h")
DAY_MINUTES = 24 * 60

# Airports of the flights that airports.csv does not list. All of them keep Atlantic time all year.
MISSING_ZONES = dict.fromkeys(("BQN", "PSE", "SJU", "STT"), "America/Puerto_Rico")

WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")

SCHEMA = pa.schema(
    [
        ("scheduled", pa.timestamp("ms", "UTC")),
        ("carrier", pa.string()),
        ("flight", pa.int32()),
        ("tailnum", pa.string()),
        ("origin", pa.string()),
        ("dest", pa.string()),
        ("route", pa.string()),
        ("sched_dep_time", pa.int16()),
        ("sched_arr_time", pa.int16()),
        ("distance", pa.int16()),
        ("date", pa.date32()),
        ("month", pa.int8()),
        ("day", pa.int8()),
        ("weekday", pa.int8()),
        ("hour", pa.int8()),
        *((name, pa.float32()) for name in WEATHER),
        ("late", pa.int8()),
        ("outcome", pa.string()),
        ("arrived", pa.timestamp("ms", "UTC")),
    ]
)


def main(source: Path, out: Path) -> None:
    flights = read(source / "flights.csv.zst")
    airports = read(source / "airports.csv")
    zones = dict(zip(airports["faa"].to_pylist(), airports["tzone"].to_pylist(), strict=True)) | MISSING_ZONES
    columns = {name: flights[name] for name in flights.column_names}
    columns |= schedule(flights) | outcome(flights, zones)
    table = with_weather(pa.table(columns), read(source / "weather.csv.zst"))

    # The source lists each day by actual departure, which would leak through the order of flights scheduled
    # for the same minute. These four columns are unique, so the order depends on nothing else.
    table = table.sort_by([(name, "ascending") for name in ("scheduled", "carrier", "flight", "origin")])
    pq.write_table(
        table.select(SCHEMA.names).cast(SCHEMA),
        out,
        compression="zstd",
        compression_level=19,
        use_dictionary=True,
        row_group_size=ROW_GROUP_ROWS,
        store_schema=False,
    )


def read(path: Path) -> pa.Table:
    return csv.read_csv(
        path, convert_options=csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    )


def schedule(flights: pa.Table) -> dict[str, pa.Array]:
    """Derive the instant and the calendar (New York time) of scheduled departure."""
    # time_hour is the local hour of scheduled departure as an instant; hour and minute split sched_dep_time.
    instant = minutes(flights, "time_hour") + flights["minute"].to_numpy().astype("timedelta64[m]")
    local = local_minutes(instant, "America/New_York")
    if not np.array_equal(clock(local), clock_of(flights["sched_dep_time"])):
        raise SystemExit(
            "time_hour and minute do not give sched_dep_time: is this another edition of the data?"
        )
    calendar = pa.array(local.astype("datetime64[s]"))
    return {
        "scheduled": as_utc(instant),
        "route": pc.binary_join_element_wise(flights["origin"], flights["dest"], "-"),
        "date": pa.array(local.astype("datetime64[D]")),
        "month": pc.month(calendar),
        "day": pc.day(calendar),
        "weekday": pc.day_of_week(calendar, count_from_zero=False),
        "hour": pc.hour(calendar),
    }


def outcome(flights: pa.Table, zones: dict[str, str]) -> dict[str, pa.Array]:
    """Derive the label, why it is missing where it is, and the instant at which it became known."""
    known = flights["arr_delay"].is_valid()
    departed = flights["dep_time"].is_valid()
    return {
        "late": pc.greater(flights["arr_delay"], LATE_MINUTES),
        "outcome": pc.if_else(known, "arrived", pc.if_else(departed, "diverted", "cancelled")),
        "arrived": arrival(flights, zones),
    }


def arrival(flights: pa.Table, zones: dict[str, str]) -> pa.Array:
    """Return the first instant after departure at which the destination's clock shows arr_time."""
    known = flights["arr_delay"].is_valid().to_numpy()
    arrived = np.full(flights.num_rows, np.datetime64("NaT"), "datetime64[m]")
    dest = flights["dest"].to_numpy()
    scheduled = minutes(flights, "time_hour") + flights["minute"].to_numpy().astype("timedelta64[m]")
    delay = pc.fill_null(flights["dep_delay"], 0).to_numpy().astype("timedelta64[m]")
    departed = scheduled + delay
    shown = clock_of(pc.fill_null(flights["arr_time"], 0))
    for airport in np.unique(dest):
        rows = np.flatnonzero(known & (dest == airport))
        took = (shown[rows] - clock(local_minutes(departed[rows], zones[airport]))) % DAY_MINUTES
        arrived[rows] = departed[rows] + took.astype("timedelta64[m]")
        # A flight in the air while the clocks change lands an hour off: move it to where the clock agrees.
        off = (shown[rows] - clock(local_minutes(arrived[rows], zones[airport]))) % DAY_MINUTES
        off = np.where(off > DAY_MINUTES // 2, off - DAY_MINUTES, off)
        arrived[rows] += off.astype("timedelta64[m]")
    return as_utc(arrived)


def with_weather(flights: pa.Table, weather: pa.Table) -> pa.Table:
    """Join the weather of the last full hour before the hour of scheduled departure."""
    # An hour's row may be observed as late as its 51st minute, after many of that hour's departures.
    observed = pa.table(
        {"origin": weather["origin"], "time_hour": pa.array(weather["time_hour"].to_numpy() + HOUR)}
        | {name: weather[name] for name in WEATHER}
    )
    hours = pa.array(flights["time_hour"].to_numpy())
    flights = flights.set_column(flights.schema.get_field_index("time_hour"), "time_hour", hours)
    return flights.join(observed, ["origin", "time_hour"], join_type="left outer")


def minutes(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype("datetime64[m]")


def local_minutes(instant: np.ndarray, zone: str) -> np.ndarray:
    """Return what a calendar and clock in `zone` show at each instant."""
    utc = pa.array(instant.astype("datetime64[s]")).cast(pa.timestamp("s", "UTC"))
    local = pc.local_timestamp(utc.cast(pa.timestamp("s", zone)))
    return local.to_numpy(zero_copy_only=False).astype("datetime64[m]")


def clock(local: np.ndarray) -> np.ndarray:
    """Return minutes since midnight."""
    return (local - local.astype("datetime64[D]")).astype(np.int64)


def clock_of(hhmm: pa.ChunkedArray) -> np.ndarray:
    """Return minutes since midnight of a time written as 1435; 2400 is midnight."""
    value = hhmm.to_numpy()
    return (value // 100 * 60 + value % 100) % DAY_MINUTES


def as_utc(instant: np.ndarray) -> pa.Array:
    return pa.array(instant.astype("datetime64[ms]")).cast(pa.timestamp("ms", "UTC"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python scripts/flights.py SOURCE_DIR OUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))

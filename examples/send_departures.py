"""Send a year of flights to `onstream run examples/flights_join.py`, as they left and as they arrived.

Time goes by many times as fast as it did. For each hour the departures are asked for, as at an airport, and sent as
impressions; arrivals are sent in the hour in which they happened. Run it again after an interruption: the server knows
what it has, and takes nothing twice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as flight
import pyarrow.parquet as pq

from onstream import Client
from onstream.errors import DeadlineError, UnavailableError

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.parquet"


def hours() -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield what left and what arrived in each hour, in order of time."""
    flights = pq.read_table(FLIGHTS)
    flights = flights.append_column("id", pa.array(np.arange(len(flights))))
    departures = flights.drop_columns(["late", "outcome", "arrived"])
    arrivals = flights.select(["id", "arrived", "late"]).filter(pc.is_valid(flights["late"]))
    arrivals = arrivals.sort_by("arrived")
    left, landed = hour_of(departures["scheduled"]), hour_of(arrivals["arrived"])
    every = np.arange(left[0], max(left[-1], landed[-1]) + 2)
    bounds = zip(np.searchsorted(left, every), np.searchsorted(landed, every), strict=True)
    first, first_landed = next(bounds)
    for end, end_landed in bounds:
        yield (
            departures.slice(first, end - first),
            arrivals.slice(first_landed, end_landed - first_landed),
        )
        first, first_landed = end, end_landed


def hour_of(times: pa.ChunkedArray) -> np.ndarray:
    return times.to_numpy().astype("datetime64[h]").astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="grpc://127.0.0.1:8815", help="of the server")
    parser.add_argument("--factor", type=float, default=50_000, help="how many seconds go by in one")
    parser.add_argument("--hours", type=int, help="how many hours of the year are sent; all by default")
    arguments = parser.parse_args()
    # A writer with a name and sequence numbers: what was acknowledged once is not appended again.
    with Client(arguments.address, writer="send_departures", timeout_s=120) as client:
        year = list(hours())[: arguments.hours]
        client.send(year[0][0], to="departures", sequence=0)
        known = {log: rows_in(arguments.address, log) for log in ("departures", "arrivals")}
        sent = dict.fromkeys(known, 0)
        asked, late = 0, 0.0
        began, skipped = time.monotonic(), 0
        for number, (departures, arrivals) in enumerate(year):
            new = sent["departures"] + len(departures) > known["departures"]
            if new:
                answer = expected_late(client, departures)
                asked += len(departures) if answer is not None else 0
                late += answer or 0.0
            for log, rows in (("departures", departures), ("arrivals", arrivals)):
                sent[log] += len(rows)
                if len(rows) and sent[log] > known[log]:
                    client.send(rows, to=log, sequence=number)
            skipped += not new
            if number % 240 == 0 and asked:
                print(
                    f"{sent['departures']:,} flights left and {sent['arrivals']:,} arrived; of those asked for, "
                    f"{late / asked:.1%} were expected to be late",
                    flush=True,
                )
            time.sleep(max(0.0, began + (number - skipped) * 3600 / arguments.factor - time.monotonic()))
        print(
            f"all were sent: {sent['departures']:,} flights left and {sent['arrivals']:,} arrived", flush=True
        )


def rows_in(address: str, log: str) -> int:
    """Return how many rows the server has in a log."""
    return flight.connect(address).get_flight_info(flight.FlightDescriptor.for_path(log)).total_records


def expected_late(client: Client, departures: pa.Table) -> float | None:
    """Return how many of some flights the model expects to be late; None where there is no model yet."""
    try:
        return float(client.predict(departures, timeout_s=0.5).predictions["late"].sum())
    except (UnavailableError, DeadlineError):
        # There is nothing to predict with before the first checkpoint, nor while a server starts again.
        return None


if __name__ == "__main__":
    main()

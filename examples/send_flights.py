"""Send a year of flights to `onstream run examples/flights_live.py`, an hour of departures at a time.

For each hour the predictions come first, as at an airport; then what happened is sent, to be learned. Run it again
after an interruption: the server knows which hours it has, and takes none twice.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as flight
import pyarrow.parquet as pq

from onstream import Client
from onstream.errors import DeadlineError, UnavailableError

FLIGHTS = Path(__file__).parents[1] / "data" / "flights.parquet"


def hours() -> Iterator[pa.Table]:
    """Yield the flights of each hour, in time order."""
    flights = pq.read_table(FLIGHTS)
    scheduled = flights["scheduled"].to_numpy().astype("datetime64[h]")
    edges = np.flatnonzero(np.diff(scheduled)) + 1
    for begin, end in zip([0, *edges], [*edges, len(scheduled)], strict=True):
        yield flights.slice(begin, end - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="grpc://127.0.0.1:8815", help="of the server")
    parser.add_argument("--rate", type=float, default=3000, help="flights a second")
    arguments = parser.parse_args()
    # A writer with a name and sequence numbers: what was acknowledged once is not appended again.
    with Client(arguments.address, writer="send_flights", timeout_s=120) as client:
        sent, asked, late = 0, 0, 0.0
        year = list(hours())
        client.send(year[0], sequence=0)
        # What the server has from a run before need not be asked for again.
        known = (
            flight.connect(arguments.address)
            .get_flight_info(flight.FlightDescriptor.for_path())
            .total_records
        )
        began = time.monotonic()
        for number, flights in enumerate(year):
            if sent + len(flights) <= known:
                sent += len(flights)
                continue
            try:
                answer = client.predict(flights.drop_columns(["late", "outcome", "arrived"]), timeout_s=0.5)
                asked += len(flights)
                late += float(answer.predictions["late"].sum())
            except (UnavailableError, DeadlineError):
                # There is nothing to predict with before the first checkpoint, nor while a server starts again.
                pass
            client.send(flights, sequence=number)
            sent += len(flights)
            if number % 500 == 0 and asked:
                print(
                    f"sent {sent:,} flights; of those asked for, {late / asked:.1%} were expected to be late"
                )
            time.sleep(max(0.0, began + (sent - known) / arguments.rate - time.monotonic()))


if __name__ == "__main__":
    main()

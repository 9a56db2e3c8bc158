"""A feeder in a process of its own: sends examples at a steady pace.

Run by `bench.freshness`: python -m bench.feed ADDRESS ROWS_PER_S SECONDS
"""

from __future__ import annotations

import json
import sys
import time

import pyarrow as pa
import pyarrow.ipc

from bench.data import criteo_file
from onstream import Client

ROWS = 400_000
BATCH_ROWS = 1000
COLUMNS = [f"C{i}" for i in range(1, 11)]


def main() -> None:
    address, rows_per_s, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    with pyarrow.ipc.open_file(str(criteo_file("arrow", ROWS))) as reader:
        examples = reader.read_all().select([*COLUMNS, "label"])
    examples = examples.append_column("probe", pa.nulls(len(examples), pa.int64())).combine_chunks()
    with Client(address) as client:
        began, sent = time.perf_counter(), 0
        while (now := time.perf_counter() - began) < seconds:
            due = sent / rows_per_s
            if now < due:
                time.sleep(due - now)
            client.send(examples.slice(sent % ROWS, BATCH_ROWS))
            sent += BATCH_ROWS
        took = time.perf_counter() - began
    print(json.dumps({"rows": sent, "rows_per_s": sent / took}))


if __name__ == "__main__":
    main()

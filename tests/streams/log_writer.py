"""A process of its own that appends to a log: path, batches to write (0: without end), rows of each."""

import sys

import pyarrow as pa

from onstream.streams import Log

path, num_batches, num_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
log = Log(path)
written = 0
while num_batches == 0 or written < num_batches:
    first = log.end if num_batches == 0 else 0
    appended = log.append(
        pa.record_batch({"n": pa.array(range(first, first + num_rows)), "s": ["x" * 50] * num_rows})
    )
    print(appended.end, flush=True)
    written += 1

"""The event-time join: impressions a second with five million waiting, and the memory that they take.

Each side runs in a process of its own. The dict join is what one would write in Python: ids in a dict, labels in a
bytearray, rows in the Arrow batches that they came in; all in memory, rows in order, nothing survives a crash. Arrow's
hash join is an upper reference: it has all rows of both sides at once.

Run: python -m bench.join
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from bench.common import Figure
from bench.memory import anonymous_bytes
from onstream import Join
from onstream.contracts import Chunk, Positions
from onstream.feedback import Wait

ROWS_PER_S = 1000
WAITING = 5_000_000
MEMORY_BYTES = 512_000_000
CHUNK_ROWS = 16_384
INTEGERS, FLOATS = 20, 16
SHARE = 0.1

SPREAD = np.uint64(0x9E3779B97F4A7C15)


class Shown:
    """Impressions of 304 bytes, a thousand a second of event time, their keys and times in disorder by a second."""

    live = False

    def __init__(self, rows: int) -> None:
        self.rows = rows
        draw = np.random.default_rng(1)
        self._fixed = {f"i{i}": draw.integers(0, 1 << 40, CHUNK_ROWS) for i in range(INTEGERS)}
        self._fixed |= {f"f{i}": draw.random(CHUNK_ROWS) for i in range(FLOATS)}
        self._disorder = draw.integers(-1000, 1000, CHUNK_ROWS)

    def times(self, first: int, count: int) -> np.ndarray:
        at = np.arange(first, first + count)
        return 1_600_000_000_000 + at * 1000 // ROWS_PER_S + self._disorder[:count]

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        assert max_rows >= CHUNK_ROWS
        for first in range(positions.get("shown", 0), self.rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, self.rows - first)
            columns = {
                "id": spread(np.arange(first, first + count)),
                "at": pa.array(self.times(first, count)),
                # Of its own memory, as what is read from a stream is.
                **{name: pa.array(column[:count].copy()) for name, column in self._fixed.items()},
            }
            yield Chunk(pa.record_batch(columns), "shown", first + count)

    def behind(self, positions: Positions) -> tuple[int, str]:
        return self.rows - positions.get("shown", 0), "rows"

    def schema(self) -> pa.Schema:
        fixed = [(name, pa.from_numpy_dtype(column.dtype)) for name, column in self._fixed.items()]
        return pa.schema([("id", pa.int64()), ("at", pa.int64()), *fixed])


class Clicked(Shown):
    """Feedback to a tenth of them, after a time of at most the window."""

    def read(self, positions: Positions, *, max_rows: int, stop: threading.Event) -> Iterator[Chunk]:
        window_ms = WAITING * 1000 // ROWS_PER_S
        step = int(1 / SHARE)
        # Each click is of an impression some time before: short delays are frequent.
        draw = np.random.default_rng(2)
        count = CHUNK_ROWS
        for first in range(0, self.rows // step, count):
            at = np.arange(first, min(first + count, self.rows // step)) * step
            delays = np.minimum(draw.exponential(window_ms / 5, len(at)), window_ms - 3000).astype(np.int64)
            of = np.maximum(at - delays * ROWS_PER_S // 1000, 0)
            times = 1_600_000_000_000 + at * 1000 // ROWS_PER_S + 1000
            yield Chunk(
                pa.record_batch({"id": spread(of), "at": pa.array(times)}), "clicked", first + len(at)
            )


def spread(numbers: np.ndarray) -> pa.Array:
    """Return ids that are no counters: spread over all of int64."""
    return pa.array((numbers.astype(np.uint64) * SPREAD).view(np.int64))


def join(rows: int, memory: int | str, folder: str) -> Join:
    return Join(
        Shown(rows),
        Clicked(rows),
        on="id",
        time="at",
        unit="ms",
        label="clicked",
        window=f"{WAITING // ROWS_PER_S}s",
        policy=Wait(measured=0),
        memory=memory,
        spill=folder,
    )


def onstream_join(rows: int) -> dict[str, float]:
    """Time what comes out while `WAITING` rows wait, until all impressions were read."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        made = join(rows, MEMORY_BYTES, folder)
        before = peak = anonymous_bytes()
        began = filled = time.perf_counter()
        emitted, waiting, figures = 0, 0.0, {}
        for chunk in made.read({}, max_rows=CHUNK_ROWS, stop=threading.Event()):
            if not emitted and chunk.batch.num_rows:
                filled = time.perf_counter()
            emitted = chunk.next
            if emitted >= rows - WAITING:
                break
            figures = chunk.state.figures()
            peak = max(peak, anonymous_bytes())
            waiting = max(waiting, figures["join/waiting_rows"])
        done = time.perf_counter()
    return {
        "fill_rows_per_s": WAITING / (filled - began),
        "rows_per_s": emitted / (done - filled),
        "waiting": waiting,
        "memory_bytes": peak - before,
        "spilled_bytes": figures["join/spilled_bytes"],
        "coverage": figures["join/clicked/coverage"],
    }


def dict_join(rows: int) -> dict[str, float]:
    """Join as a program of a page would: for comparison, with none of what makes it hard."""
    stop = threading.Event()
    clicks = Clicked(rows).read({}, max_rows=CHUNK_ROWS, stop=stop)
    click_ids: list[int] = []
    click_times: list[int] = []
    click_at = 0
    window = WAITING * 1000 // ROWS_PER_S
    where: dict[int, int] = {}
    labels = bytearray(rows)
    batches: deque[tuple[int, int, pa.RecordBatch]] = deque()
    number = emitted = 0
    before = peak = anonymous_bytes()
    began = filled = time.perf_counter()
    for chunk in Shown(rows).read({}, max_rows=CHUNK_ROWS, stop=stop):
        newest = chunk.batch["at"][-1].as_py()
        for offset, id in enumerate(chunk.batch["id"].to_pylist()):
            where.setdefault(id, number + offset)
        batches.append((number, newest, chunk.batch))
        number += chunk.batch.num_rows
        while click_at < len(click_ids) or (more := next(clicks, None)) is not None:
            if click_at == len(click_ids):
                click_ids, click_times = (more.batch[name].to_pylist() for name in ("id", "at"))
                click_at = 0
            if click_times[click_at] > newest:
                break
            if (at := where.get(click_ids[click_at])) is not None:
                labels[at] = 1
            click_at += 1
        while batches and batches[0][1] + window <= newest:
            first, _, batch = batches.popleft()
            part = labels[first : first + batch.num_rows]
            batch.append_column("clicked", pa.array(np.frombuffer(part, np.int8)))
            for id in batch["id"].to_pylist():
                del where[id]
            if not emitted:
                filled = time.perf_counter()
            emitted += batch.num_rows
        peak = max(peak, anonymous_bytes())
    done = time.perf_counter()
    return {
        "rows_per_s": emitted / (done - filled),
        "memory_bytes": peak - before,
        "fill_s": filled - began,
    }


def arrow_join(rows: int) -> dict[str, float]:
    """Join both sides whole, as a batch job does."""
    stop = threading.Event()
    shown, clicked = (
        pa.Table.from_batches([chunk.batch for chunk in side(rows).read({}, max_rows=CHUNK_ROWS, stop=stop)])
        for side in (Shown, Clicked)
    )
    before = peak = anonymous_bytes()
    began = time.perf_counter()
    clicks = clicked.group_by("id").aggregate([("at", "min")])
    joined = shown.join(clicks, "id")
    done = time.perf_counter()
    peak = anonymous_bytes()
    assert joined.num_rows == rows
    return {"rows_per_s": rows / (done - began), "memory_bytes": peak - before}


SIDES = {"onstream": onstream_join, "dict": dict_join, "arrow": arrow_join}


def run(side: str, rows: int) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-m", "bench.join", "--side", side, "--rows", str(rows)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--rows", type=int, default=WAITING + 3_000_000)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](options.rows)))
        return
    ours, plain, whole = (run(side, options.rows) for side in SIDES)
    waiting = f"{ours['waiting'] / 1e6:.1f} million waiting"
    assert ours["waiting"] >= WAITING
    speed, memory = "impressions/s", "bytes of resident memory, pages of files aside"
    Figure(f"join, {waiting}", ours["rows_per_s"], speed, goal=">= 200000").report()
    Figure("join while it fills", ours["fill_rows_per_s"], speed, goal=">= 200000").report()
    for name, other in (("dict join in Python", plain), ("pyarrow Table.join, all rows at once", whole)):
        Figure(
            f"join, {waiting}",
            ours["rows_per_s"],
            speed,
            name,
            other["rows_per_s"],
            ours["rows_per_s"] / other["rows_per_s"],
        ).report()
    Figure(
        f"memory of the join, {waiting}, memory={MEMORY_BYTES // 10**6}MB",
        ours["memory_bytes"],
        memory,
        goal=f"<= {MEMORY_BYTES}",
    ).report()
    Figure(
        f"memory of the join, {waiting}",
        ours["memory_bytes"],
        memory,
        "dict join in Python",
        plain["memory_bytes"],
        ours["memory_bytes"] / plain["memory_bytes"],
    ).report()


if __name__ == "__main__":
    main()

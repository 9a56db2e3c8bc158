"""Freshness: from the acknowledgement of an example to a prediction that reflects it, at 50,000 examples a second.

Run it: python -m bench.freshness

`onstream run` trains and serves with default settings; a process feeds it. From outside, a probe sends an example with
an id that nobody has, and asks for predictions of this id and of one that was never sent, over and over: both weigh
exactly 0 until the first is learned, so the first difference shows that a prediction reflects the example.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.common import Figure
from bench.processes import free_port, ready, started
from onstream import Client
from onstream.checkpoints import CheckpointLog, LocalStore

RATE = 50_000
WARMUP_S = 15
SECONDS = 60
EVERY_S = 0.05
POLL_S = 0.01

JOB = Path(__file__).parent / "jobs" / "clicks.py"
ROW = {f"C{i}": "probe" for i in range(1, 11)}
NEVER_SENT = -1


@dataclass
class Seen:
    """What the probe found: the age of each example when a prediction first reflected it, in seconds."""

    ages: list[float]
    unseen: int


def probe(client: Client, seconds: float) -> Seen:
    """Send an example every 50 ms and ask every 10 ms for all that were not seen yet."""
    waiting: dict[int, float] = {}
    ages = []
    begin = time.perf_counter()
    next_send, number = begin, 0
    end = begin + seconds
    while (now := time.perf_counter()) < end or (waiting and now < end + 10):
        if next_send <= now < end:
            number += 1
            # Labels in turn: were they all the same, predictions would soon be as near to it as a float can be.
            client.send({**ROW, "probe": number, "label": number % 2})
            waiting[number] = time.perf_counter()
            next_send = max(next_send + EVERY_S, now)
        if waiting:
            rows = [{**ROW, "probe": p} for p in (NEVER_SENT, *waiting)]
            found = client.predict(rows).predictions["label"]
            seen = time.perf_counter()
            learned = [p for p, value in zip(waiting, found[1:], strict=True) if value != found[0]]
            ages += [seen - waiting.pop(p) for p in learned]
        time.sleep(POLL_S)
    return Seen(ages, len(waiting))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rest, flight = free_port(), free_port()
        command = [sys.executable, "-m", "onstream", "run", str(JOB), "--rest-port", str(rest)]
        command += ["--grpc-port", "-1", "--flight-port", str(flight)]
        with started(command, environment={"DIRECTORY": folder}):
            ready(f"http://127.0.0.1:{rest}/v2/health/live")
            address = f"grpc://127.0.0.1:{flight}"
            seconds = WARMUP_S + SECONDS + 5
            feeder = subprocess.Popen(
                [sys.executable, "-m", "bench.feed", address, str(RATE), str(seconds)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ,
            )
            ready(f"http://127.0.0.1:{rest}/v2/health/ready")
            time.sleep(WARMUP_S)
            log = CheckpointLog(LocalStore(Path(folder) / "model"))
            before, began = learned(log), time.perf_counter()
            with Client(address) as client:
                seen = probe(client, SECONDS)
            trained = (learned(log) - before) / (time.perf_counter() - began)
            feeder.communicate()
            assert feeder.returncode == 0
    p50, p99 = np.percentile(seen.ages, (50, 99))
    figure = f"freshness at {round(trained)} examples/s, {len(seen.ages)} probes"
    Figure(f"{figure}, p50", float(p50), "s", goal="<= 0.5").report()
    Figure(f"{figure}, p99", float(p99), "s", goal="<= 1").report()
    Figure("probes that were never seen", seen.unseen, "probes", goal="<= 0").report()
    Figure("examples learned meanwhile", trained, "examples/s", goal=f">= {0.98 * RATE:.0f}").report()


def learned(log: CheckpointLog) -> int:
    """Return how many examples the newest version knows."""
    newest = log.newest()
    return int(newest.facts["examples"]) if newest is not None else 0


if __name__ == "__main__":
    main()

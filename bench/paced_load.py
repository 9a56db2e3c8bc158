"""A load generator for REST that asks at a steady pace, whether or not answers have come; in a process of its own.

Latency counts from the moment at which a request was due, so a server that stalls is not spared the requests that
would have met it meanwhile. Run by `bench.serving`: python -m bench.paced_load PORT ROWS_PER_S ROWS SECONDS, with the
requests as JSON on standard input.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import sys
import time

import numpy as np

CONNECTIONS = 16


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    """Send one request on an open connection, read its answer, and tell whether it is a success."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
    await reader.readexactly(int(fields[b"content-length"]))
    return b" 200 " in head.split(b"\r\n", 1)[0]


async def run(
    port: int, rows_per_s: float, rows: int, seconds: float, asked: list[bytes]
) -> dict[str, float]:
    idle: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    latencies: list[float] = []
    errors = 0

    async def one(request: bytes, due: float) -> None:
        nonlocal errors
        connection = await idle.get()
        errors += not await ask(*connection, request)
        idle.put_nowait(connection)
        latencies.append(time.perf_counter() - due)

    begin = time.perf_counter()
    tasks = []
    count = int(seconds * rows_per_s / rows)
    for i, request in zip(range(count), itertools.cycle(asked)):
        due = begin + i * rows / rows_per_s
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(one(request, due)))
    await asyncio.gather(*tasks)
    took = time.perf_counter() - begin
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return {"rows_per_s": count * rows / took, "p50_ms": float(p50), "p99_ms": float(p99), "errors": errors}


def main() -> None:
    port, rows_per_s, rows, seconds = sys.argv[1:]
    told = json.load(sys.stdin)
    headers = "".join(f"{name}: {value}\r\n" for name, value in told["headers"])
    requests = []
    for body in map(base64.b64decode, told["bodies"]):
        length = f"Content-Length: {len(body)}\r\n"
        head = f"POST {told['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}{length}\r\n"
        requests.append(head.encode() + body)
    print(json.dumps(asyncio.run(run(int(port), float(rows_per_s), int(rows), float(seconds), requests))))


if __name__ == "__main__":
    main()

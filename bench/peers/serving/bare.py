"""The least server that could answer: it reads a request, runs the network's layers, and sends as many bytes.

What it takes is the machine's: no tables, no checks, no joining of requests. Run it: python bare.py PORT PROCESSES
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from functools import partial

import torch
from network import COLUMNS, DIM, DeepFM, has_bfloat16
from torch import nn

ROWS = 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + bytes(4 * ROWS)


async def answer(network: nn.Module, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection until it is closed."""
    inputs = torch.randn(ROWS, COLUMNS * DIM)
    bfloat16 = has_bfloat16()
    with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields.get(b"content-length", 0)))
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                network(inputs)
            writer.write(ANSWER)


async def serve(listening: socket.socket, network: nn.Module) -> None:
    async with await asyncio.start_server(partial(answer, network), sock=listening) as server:
        await server.serve_forever()


def main() -> None:
    port, processes = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    network = DeepFM().deep.eval()
    # All listen before one answers: connections are spread over them from the first on.
    own, *others = [socket.create_server(("127.0.0.1", port), reuse_port=True) for _ in range(processes)]
    for other in others:
        if os.fork() == 0:
            own = other
            break
    asyncio.run(serve(own, network))


if __name__ == "__main__":
    main()

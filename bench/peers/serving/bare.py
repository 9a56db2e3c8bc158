"""The least server that could answer: it reads a request, multiplies as the network does, and sends as many bytes.

What it takes is the machine's: no tables, no checks, no joining of requests. Run it: python bare.py PORT
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial

import torch
from network import COLUMNS, DIM, HIDDEN
from torch import nn

ROWS = 100
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + bytes(4 * ROWS)


async def answer(network: nn.Module, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection until it is closed."""
    inputs = torch.randn(ROWS, COLUMNS * DIM)
    with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields.get(b"content-length", 0)))
            with torch.inference_mode():
                network(inputs)
            writer.write(ANSWER)


async def main() -> None:
    network = nn.Sequential(nn.Linear(COLUMNS * DIM, HIDDEN[0]), nn.Linear(*HIDDEN))
    async with await asyncio.start_server(partial(answer, network), "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()


if __name__ == "__main__":
    torch.set_num_threads(1)
    asyncio.run(main())

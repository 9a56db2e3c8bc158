"""A load generator for the gRPC wire, in a process of its own: clients that ask as fast as they are answered.

Run it: python -m bench.rpc_load PORT MODEL CLIENTS SECONDS FORM, where FORM is "columns" or "block".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time

import grpc
import grpc.aio
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc._utils import _get_inference_request

from bench.data import COLUMNS, candidates
from bench.processes import answer_of

BODIES = 64
ROWS = 100


def drive(port: int, model: str, clients: int, seconds: float, *, columns: bool) -> dict[str, float]:
    """Run this file, and return rows_per_s, p50_ms, p99_ms and errors."""
    form = "columns" if columns else "block"
    arguments = [str(port), model, str(clients), str(seconds), form]
    return answer_of([sys.executable, "-m", "bench.rpc_load", *arguments])


def requests(model: str, form: str) -> list[bytes]:
    """Return serialized requests: one tensor a column, or one for all of them."""
    made = []
    for ids in candidates(BODIES, ROWS):
        tensors = dict(zip(COLUMNS, ids.T, strict=True)) if form == "columns" else {"ids": ids}
        inputs = []
        for name, values in tensors.items():
            tensor = triton.InferInput(name, list(values.shape), "INT64")
            tensor.set_data_from_numpy(np.ascontiguousarray(values))
            inputs.append(tensor)
        request = _get_inference_request(
            model_name=model,
            inputs=inputs,
            model_version="",
            request_id="",
            outputs=None,
            sequence_id=0,
            sequence_start=False,
            sequence_end=False,
            priority=0,
            timeout=None,
            parameters=None,
        )
        made.append(request.SerializeToString())
    return made


async def run(port: int, model: str, clients: int, seconds: float, form: str) -> dict[str, float]:
    bodies = itertools.cycle(requests(model, form))
    latencies: list[float] = []
    errors = 0
    async with contextlib.AsyncExitStack() as stack:
        calls = []
        for _ in range(clients):
            # A connection each, as clients of different machines have.
            channel = grpc.aio.insecure_channel(
                f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
            )
            await stack.enter_async_context(channel)
            # Bytes as they are: the cost of a client is not what is measured.
            calls.append(channel.unary_unary("/inference.GRPCInferenceService/ModelInfer"))
            await calls[-1](next(bodies))
        begin = time.perf_counter()

        async def client(call: grpc.aio.UnaryUnaryMultiCallable) -> None:
            nonlocal errors
            while (asked := time.perf_counter()) - begin < seconds:
                try:
                    await call(next(bodies))
                    latencies.append(time.perf_counter() - asked)
                except grpc.aio.AioRpcError:
                    errors += 1

        await asyncio.gather(*map(client, calls))
        took = time.perf_counter() - begin
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    rate = len(latencies) * ROWS / took
    return {"rows_per_s": rate, "p50_ms": float(p50), "p99_ms": float(p99), "errors": errors}


def main() -> None:
    port, model, clients, seconds, form = sys.argv[1:]
    print(json.dumps(asyncio.run(run(int(port), model, int(clients), float(seconds), form))))


if __name__ == "__main__":
    main()

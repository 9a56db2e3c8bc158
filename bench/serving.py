"""Predictions served: a DeepFM with 100 candidates a request, beside MLServer and LitServe with the same network.

Run it: python -m bench.serving. It needs `wrk`, the load generator (Debian: apt-get install wrk).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from bench.common import Figure
from bench.data import COLUMNS, FOLDER, candidates, numbered_file
from bench.deepfm import DeepFM
from bench.processes import answer_of, free_port, ready, served, started
from bench.rpc_load import drive
from onstream import Adagrad, Files, Id, Job, Label, Torch
from onstream.learners.bfloat import has_bfloat16

TRAINED_ROWS = 131_072
CANDIDATES = 100
BODIES = 64
CLIENTS = (1, 8, 32)
SECONDS = 4
ROUNDS = 3

# A process a processor, as each serves by one interpreter. Peers are measured with one and with as many, and the better
# counts.
PROCESSORS = len(os.sched_getaffinity(0))
PROCESSES = ("--processes", str(PROCESSORS))

HERE = Path(__file__).parent / "peers" / "serving"

# One thread a network: with more, both peers are many times slower on few cores, as waiting threads spin.
PEER_ENVIRONMENT = {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Load:
    """What a load generator saw: rows a second, latency in milliseconds."""

    rows_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


@dataclass(frozen=True)
class Target:
    """Where requests go, and what they look like: `rows` candidates each."""

    port: int
    path: str
    headers: tuple[tuple[str, str], ...]
    bodies: tuple[bytes, ...]
    rows: int = CANDIDATES


def drive_rest(target: Target, clients: int, seconds: float = SECONDS) -> Load:
    """Let `clients` connections of wrk ask as fast as they are answered."""
    with tempfile.TemporaryDirectory() as folder:
        for i, body in enumerate(target.bodies):
            (Path(folder) / str(i)).write_bytes(body)
        environment = {
            "BODIES": folder,
            "COUNT": str(len(target.bodies)),
            "URL_PATH": target.path,
            "HEADERS": "\n".join(f"{name}: {value}" for name, value in target.headers),
        }
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}", "-s", str(HERE / "load.lua")]
        found = subprocess.run(
            [*command, f"http://127.0.0.1:{target.port}"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=True,
        )
    counts = json.loads(found.stdout.splitlines()[-1])
    rate = counts["requests"] * target.rows / counts["us"] * 1e6
    return Load(rate, counts["p50_us"] / 1e3, counts["p99_us"] / 1e3, counts["errors"])


def asked(rows: int = CANDIDATES) -> Sequence[np.ndarray]:
    """Return the ids of the requests, in the order in which they are sent: int64 (rows, columns) each."""
    return candidates(BODIES, rows)


# ------------------------------------------------------------------------------------------------ ours


def trained(directory: Path, precision: str = "bf16") -> Path:
    """Train the DeepFM of `bench.deepfm` and return its model directory."""
    job = Job(
        Files(numbered_file(TRAINED_ROWS)),
        [*(Id(name) for name in COLUMNS), Label("label")],
        Torch(DeepFM, optimizer="adagrad", lr=0.01, precision=precision),
        directory,
        batch_size=4096,
        optimizer=Adagrad(lr=0.01),
    )
    job.train()
    return directory


def triton_inputs(ids: np.ndarray) -> list[triton.InferInput]:
    inputs = []
    for column, values in zip(COLUMNS, ids.T, strict=True):
        tensor = triton.InferInput(column, [len(ids)], "INT64")
        tensor.set_data_from_numpy(np.ascontiguousarray(values))
        inputs.append(tensor)
    return inputs


def binary_target(port: int, rows: int = CANDIDATES) -> Target:
    """Return requests with the binary tensor extension, as tritonclient writes them by default."""
    made = [triton.InferenceServerClient.generate_request_body(triton_inputs(ids)) for ids in asked(rows)]
    sizes = {size for _, size in made}
    assert len(sizes) == 1, "every request has a header of the same length"
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Inference-Header-Content-Length", str(sizes.pop())),
    )
    return Target(port, "/v2/models/deepfm/infer", headers, tuple(body for body, _ in made), rows)


def json_target(port: int) -> Target:
    def body(ids: np.ndarray) -> bytes:
        inputs = [
            {"name": column, "shape": [len(ids)], "datatype": "INT64", "data": values.tolist()}
            for column, values in zip(COLUMNS, ids.T, strict=True)
        ]
        return json.dumps({"inputs": inputs}).encode()

    headers = (("Content-Type", "application/json"),)
    return Target(port, "/v2/models/deepfm/infer", headers, tuple(map(body, asked())))


# ----------------------------------------------------------------------------------------------- peers


def peer_python() -> Path:
    """Return the Python of an environment that holds the peers, made on first use."""
    folder = FOLDER / "serving-peers"
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        constraints = Path(__file__).parents[1] / "constraints.txt"
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints)]
        subprocess.run([*install, "-r", str(HERE / "requirements.txt")], check=True)
        (folder / "done").touch()
    return python


@contextlib.contextmanager
def mlserver(workers: int) -> Iterator[tuple[Target, int]]:
    """Run MLServer, with one worker in its own process; give its REST target and its gRPC port."""
    rest, grpc, metrics = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "host": "127.0.0.1",
            "http_port": rest,
            "grpc_port": grpc,
            "metrics_port": metrics,
            "parallel_workers": workers if workers > 1 else 0,
        }
        Path(folder, "settings.json").write_text(json.dumps(settings | {"debug": False}))
        Path(folder, "model-settings.json").write_text(
            json.dumps({"name": "deepfm", "implementation": "mlserver_runtime.DeepFMRuntime"})
        )
        command = [str(peer_python().parent / "mlserver"), "start", folder]
        with started(command, environment=PEER_ENVIRONMENT, cwd=folder):
            ready(f"http://127.0.0.1:{rest}/v2/health/ready")

            def body(ids: np.ndarray) -> bytes:
                data = {
                    "name": "ids",
                    "shape": list(ids.shape),
                    "datatype": "INT64",
                    "data": ids.ravel().tolist(),
                }
                return json.dumps({"inputs": [data]}).encode()

            headers = (("Content-Type", "application/json"),)
            yield Target(rest, "/v2/models/deepfm/infer", headers, tuple(map(body, asked()))), grpc


@contextlib.contextmanager
def litserve(workers: int) -> Iterator[Target]:
    port = free_port()
    command = [str(peer_python()), str(HERE / "litserve_app.py"), str(port), str(workers)]
    with tempfile.TemporaryDirectory() as folder, started(command, environment=PEER_ENVIRONMENT, cwd=folder):
        ready(f"http://127.0.0.1:{port}/health")

        def body(ids: np.ndarray) -> bytes:
            return json.dumps({"ids": base64.b64encode(ids.tobytes()).decode()}).encode()

        headers = (("Content-Type", "application/json"),)
        yield Target(port, "/predict", headers, tuple(map(body, asked())))


@contextlib.contextmanager
def bare() -> Iterator[int]:
    """Run a server a processor that multiplies as the network does, and nothing else; give the port they share."""
    port = free_port()
    command = [sys.executable, str(HERE / "bare.py"), str(port), str(PROCESSORS)]
    with started(command, environment=PEER_ENVIRONMENT):
        ready(f"http://127.0.0.1:{port}")
        yield port


# --------------------------------------------------------------------------------------------- figures


def median(loads: Sequence[Load]) -> Load:
    return Load(
        statistics.median(load.rows_per_s for load in loads),
        statistics.median(load.p50_ms for load in loads),
        statistics.median(load.p99_ms for load in loads),
        sum(load.errors for load in loads),
    )


def main() -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("bench.serving needs wrk, the load generator (Debian: apt-get install wrk)")
    with tempfile.TemporaryDirectory() as folder:
        directory = trained(Path(folder) / "deepfm")
        beside_peers(directory)
        alone(directory)


def beside_peers(directory: Path) -> None:
    """Measure ours and each peer in turn; one server at a time has the machine."""
    figure = f"DeepFM, {CANDIDATES} candidates a request"
    seen: dict[tuple[str, int], list[Load]] = {}
    for _ in range(ROUNDS):
        with served(directory, *PROCESSES) as ports:
            for clients in CLIENTS:
                seen.setdefault(("ours, REST binary", clients), []).append(
                    drive_rest(binary_target(ports.rest), clients)
                )
                seen.setdefault(("ours, REST JSON", clients), []).append(
                    drive_rest(json_target(ports.rest), clients)
                )
                load = drive(ports.grpc, "deepfm", clients, SECONDS, columns=True)
                seen.setdefault(("ours, gRPC", clients), []).append(Load(**load))
        found: dict[tuple[str, int], list[Load]] = {}
        for workers in sorted({1, PROCESSORS}):
            with mlserver(workers) as (target, grpc):
                for clients in CLIENTS:
                    found.setdefault(("MLServer, REST JSON", clients), []).append(drive_rest(target, clients))
                    load = drive(grpc, "deepfm", clients, SECONDS, columns=False)
                    found.setdefault(("MLServer, gRPC", clients), []).append(Load(**load))
            with litserve(workers) as target:
                for clients in CLIENTS:
                    found.setdefault(("LitServe", clients), []).append(drive_rest(target, clients))
        for key, loads in found.items():
            seen.setdefault(key, []).append(max(loads, key=lambda load: load.rows_per_s))
    for clients in CLIENTS:
        for ours, peer in (
            ("ours, REST binary", "MLServer, REST JSON"),
            ("ours, REST binary", "LitServe"),
            ("ours, REST JSON", "MLServer, REST JSON"),
            ("ours, gRPC", "MLServer, gRPC"),
        ):
            own, theirs = seen[ours, clients], seen[peer, clients]
            ratio = statistics.median(a.rows_per_s / b.rows_per_s for a, b in zip(own, theirs, strict=True))
            name = f"{figure}, {clients} clients, {ours.removeprefix('ours, ')}"
            a, b = median(own), median(theirs)
            assert not a.errors, f"{name}: {a.errors} errors"
            Figure(name, a.rows_per_s, "rows/s", peer, b.rows_per_s, ratio, ">= 3").report()
            Figure(f"{name}, p99", a.p99_ms, "ms", peer, b.p99_ms, a.p99_ms / b.p99_ms, "< 1").report()


def alone(directory: Path) -> None:
    """Measure what has no peer: latency of one row, of half the load, and rows a second of one core."""
    with served(directory, *PROCESSES) as ports:
        single = median([drive_rest(binary_target(ports.rest, 1), 1) for _ in range(ROUNDS)])
        Figure("one row, REST binary, p50", single.p50_ms, "ms", goal="<= 1").report()
        target = binary_target(ports.rest)
        full = median([drive_rest(target, 8) for _ in range(ROUNDS)]).rows_per_s
        # How long steady requests take where nothing is done but products of matrices is the machine's affair.
        with bare() as bare_port:
            least_target = replace(target, port=bare_port)
            pairs = [(half_load(target, full / 2), half_load(least_target, full / 2)) for _ in range(ROUNDS)]
        half, least = map(median, zip(*pairs, strict=True))
        name = f"p99 at half load, {round(half.rows_per_s)} rows/s"
        assert not half.errors and not least.errors, f"{name}: {half.errors}, {least.errors} errors"
        peer = "servers of the network's products alone"
        Figure(name, half.p99_ms, "ms", peer, least.p99_ms, goal="<= 10").report()
        with served(directory, *PROCESSES, "--no-pin") as others:
            turns = [
                (drive_rest(target, 8), drive_rest(binary_target(others.rest), 8)) for _ in range(2 * ROUNDS)
            ]
        pinned, free = map(median, zip(*turns, strict=True))
        ratio = statistics.median(a.rows_per_s / b.rows_per_s for a, b in turns)
        name = "each process on processors of its own, 8 clients, REST binary"
        Figure(name, pinned.rows_per_s, "rows/s", "--no-pin", free.rows_per_s, ratio).report()
    precision = "bf16" if has_bfloat16() else "float32 (this processor would emulate bf16)"
    with served(directory, core=0) as ports:
        loads = [drive_rest(binary_target(ports.rest, 500), 2) for _ in range(ROUNDS)]
        Figure(
            f"500 rows a request, {precision}, REST binary, server on one core",
            median(loads).rows_per_s,
            "rows/s",
            goal=">= 100000",
        ).report()


def half_load(target: Target, rows_per_s: float) -> Load:
    """Ask at a steady pace, whether or not answers have come: a slow answer does not spare the server the next."""
    bodies = [base64.b64encode(body).decode() for body in target.bodies]
    asked = json.dumps({"path": target.path, "headers": target.headers, "bodies": bodies})
    arguments = [str(target.port), str(rows_per_s), str(target.rows), str(SECONDS)]
    return Load(**answer_of([sys.executable, "-m", "bench.paced_load", *arguments], text=asked))


if __name__ == "__main__":
    main()

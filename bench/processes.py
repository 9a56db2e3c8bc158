"""Servers started for a benchmark, and stopped after it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ports:
    """Where a server of ours listens on 127.0.0.1."""

    rest: int
    grpc: int
    flight: int
    process: int


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextlib.contextmanager
def started(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, cwd: str | Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command; end it on exit. If it ends before, show what it said."""
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            list(command),
            env=os.environ | dict(environment or {}),
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        except BaseException:
            output.seek(0)
            print(output.read()[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            # Its children too: some servers leave theirs behind.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ready(url: str, *, timeout_s: float = 120) -> None:
    """Wait until a URL answers with success."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"{url} was not ready after {timeout_s} s: {error}") from error
        time.sleep(0.1)


@contextlib.contextmanager
def served(directory: Path, *options: str, core: int | None = None) -> Iterator[Ports]:
    """Serve a model directory with the command, as a user would; on one core if `core` names it."""
    rest, grpc, flight = free_port(), free_port(), free_port()
    command = [
        *(["taskset", "-c", str(core)] if core is not None else []),
        *(sys.executable, "-m", "onstream", "serve", str(directory)),
        *("--rest-port", str(rest), "--grpc-port", str(grpc), "--flight-port", str(flight), *options),
    ]
    with started(command) as process:
        ready(f"http://127.0.0.1:{rest}/v2/health/ready")
        yield Ports(rest, grpc, flight, process.pid)


def resident_bytes(process: int) -> dict[str, int]:
    """Return how much memory of a process lies in RAM: in all, and without pages of files, which come and go."""
    status = Path(f"/proc/{process}/status").read_text()
    return {name: int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) << 10 for name in ("VmRSS", "RssAnon")}


def answer_of(command: Sequence[str], *, text: str = "") -> dict[str, float]:
    """Run a load generator in a process of its own and return the line of JSON that it ends with."""
    found = subprocess.run(list(command), capture_output=True, text=True, input=text, check=False)
    if found.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{found.stderr[-4000:]}")
    answer: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return answer

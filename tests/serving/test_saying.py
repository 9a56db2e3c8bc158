"""What is said waits for nobody: pipes that are full, and processes that end all the same."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from onstream.serving.saying import LoggedAside, Saying
from tests.serving.clicks import BOUND_S
from tests.serving.test_served import until
from tests.serving.test_server import status


@pytest.fixture
def pipe():
    """A pipe that is full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 4096)
    os.set_blocking(write, True)
    with os.fdopen(read, encoding="utf-8") as reader, os.fdopen(write, "wb", buffering=0) as writer:
        yield reader, writer


def test_who_says_more_than_a_pipe_takes_never_waits_and_what_is_lost_is_counted(pipe):
    reader, writer = pipe
    saying = Saying(writer.fileno(), depth=10)
    for number in range(10_000):
        saying.say(f"line {number:06} " + "." * 100)
        saying.status(f"status {number}")
    saying.close(0.0)
    found = []
    for line in reader:
        # The first one comes after what filled the pipe.
        found.append(line.lstrip("."))
        if line == "status 9999\n":
            break
    lines = [line for line in found if "line " in line]
    lost = [int(line[1:].split()[0]) for line in found if "left out" in line]
    assert sum(lost) + len(lines) == 10_000
    assert [line[:11] for line in lines[-10:]] == [f"line {number:06}" for number in range(9990, 10_000)]


def test_closing_a_pipe_that_nobody_reads_ends(pipe):
    _, writer = pipe
    saying = Saying(writer.fileno())
    saying.say("never read")
    saying.close(0.01)
    saying.close(0.01)
    # Its thread ends when it can write again.
    pipe[0].buffer.read(1 << 16)


def test_who_has_gone_away_misses_nothing():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb", buffering=0):
        saying = Saying(write)
        saying.say("to nobody")
        saying.close(BOUND_S)
        saying.say("nor this")


def test_what_is_said_and_logged_is_written_in_order():
    read, write = os.pipe()
    with os.fdopen(read, encoding="utf-8") as reader:
        with os.fdopen(write, "wb", buffering=0):
            saying = Saying(write)
            saying.say("first")
            record = logging.LogRecord("x", logging.ERROR, "", 0, "logged %d", (2,), None)
            LoggedAside(saying).handle(record)
            saying.status("status")
            saying.close(BOUND_S)
        assert reader.read() == "first\nlogged 2\nstatus\n"


@pytest.mark.parametrize("merged", [False, True])
def test_a_server_that_nobody_reads_answers_and_a_signal_ends_it(tmp_path, merged):
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 4096)
    os.set_blocking(write, True)
    options = ["--rest-port", str(port), "--grpc-port", "-1", "--flight-port", "-1", "--drain", "0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "onstream", "serve", tmp_path / "model", "--access-log", "-", *options]
        + (["--beside"] if merged else []),
        stdin=subprocess.PIPE,
        stdout=write if merged else subprocess.DEVNULL,
        stderr=write,
    )
    os.close(write)
    try:

        def live():
            with contextlib.suppress(OSError):
                return status(f"http://127.0.0.1:{port}/v2/health/live") == 200
            assert process.poll() is None
            return False

        until(live)
        # Two seconds hold two statuses of a server beside.
        pause = threading.Event()
        for _ in range(10):
            assert live()
            pause.wait(0.2 if merged else 0.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(BOUND_S) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdin.close()
        os.close(read)

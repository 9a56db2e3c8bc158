"""A server beside: small processes that say odd things, die, or do not end."""

import os
import signal
import sys
import threading

import pytest

from onstream.errors import JobError
from onstream.serving import beside
from onstream.serving.beside import Beside
from tests.serving.clicks import BOUND_S
from tests.serving.test_served import until

# It ends when its standard input does, as a server beside must.
LISTEN = "import sys; say = lambda text: print(text, flush=True); say('listening: here'); "
STAY = "sys.stdin.read()"


class Notes:
    """Lines that were told, which can be waited for."""

    def __init__(self):
        self.lines = []
        self._more = threading.Condition()

    def __call__(self, text):
        with self._more:
            self.lines.append(text)
            self._more.notify_all()

    def wait_for(self, text, times=1):
        with self._more:
            assert self._more.wait_for(lambda: sum(text in line for line in self.lines) >= times, BOUND_S), (
                self.lines
            )


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(beside, "_RESTART_AFTER_S", 0.01)


def python(code, drain_s=BOUND_S):
    return Beside([sys.executable, "-c", code], drain_s=drain_s)


def test_a_server_that_ends_or_is_killed_is_started_again():
    server, notes = python(LISTEN + STAY), Notes()
    with server.running(notes):
        notes.wait_for("listening: here")
        for times in (1, 2):
            os.kill(server.pid, signal.SIGKILL)
            notes.wait_for(f"ended with code {-signal.SIGKILL} and is started again", times)
            notes.wait_for("listening: here", times + 1)
        last = server.pid
    assert server.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


@pytest.mark.parametrize("bad", ["{", "[1]", '{"a": "b"}', "[" * 100_000])
def test_a_bad_status_is_a_line_like_others_and_the_next_one_counts(bad):
    told = f"say('status: ' + {bad!r}); say('status: {{\"version\": 3}}'); "
    server, notes = python(LISTEN + told + STAY), Notes()
    with server.running(notes):
        until(lambda: server.status() == {"version": 3})
        notes.wait_for("status: " + bad)


def test_a_view_that_fails_does_not_keep_the_server_from_being_read():
    seen = []

    def note(text):
        seen.append(text)
        raise RuntimeError("no terminal")

    many = "[say('x' * 1000) for _ in range(200)]; say('status: {\"version\": 3}'); "
    server = python(LISTEN + many + STAY)
    with server.running(note):
        until(lambda: server.status() == {"version": 3})
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: seen.count("listening: here") == 2)
    assert sum(line == "x" * 1000 for line in seen) >= 200


@pytest.mark.parametrize(
    "code", ["print('no port'); raise SystemExit(3)", "print('no port'); print('status: {')"]
)
def test_a_server_that_ends_before_it_listens_is_an_error_with_what_it_said(code):
    with pytest.raises(JobError, match=r"the server did not start: no port"), python(code).running(print):
        pytest.fail("it never listened")


def test_a_command_that_is_none_is_an_error(tmp_path):
    server = Beside([str(tmp_path / "nothing")], drain_s=1.0)
    with pytest.raises(JobError, match=r"the server did not start: .*No such file"), server.running(print):
        pytest.fail("it never listened")


def test_a_server_that_cannot_be_started_again_is_tried_until_it_can(tmp_path):
    command = tmp_path / "server"
    command.symlink_to("/bin/sh")
    server = Beside([str(command), "-c", "echo listening: here; read x"], drain_s=BOUND_S)
    notes = Notes()
    with server.running(notes):
        command.unlink()
        os.kill(server.pid, signal.SIGKILL)
        notes.wait_for("cannot be started again, which is tried further", 2)
        command.symlink_to("/bin/sh")
        notes.wait_for("listening: here", 2)
    assert server.pid is None


def test_a_server_that_does_not_end_is_killed_and_what_it_started_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(beside, "_GRACE_S", 0.2)
    deaf = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    held = "child = subprocess.Popen(['cat']); say(child.pid); "
    wait = "[signal.pause() for _ in range(9)]"
    # `cat` holds the pipe open, and ends with the standard input that it shares.
    server, notes = python(deaf + LISTEN + held + wait, drain_s=0.1), Notes()
    with server.running(notes):
        until(lambda: any(line.isdigit() for line in notes.lines))
        process = server.pid
    until(lambda: server.pid is None)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    os.kill(int(next(line for line in notes.lines if line.isdigit())), signal.SIGKILL)

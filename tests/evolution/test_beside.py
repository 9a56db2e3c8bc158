"""Samplers in processes of their own."""

import sys
import threading
from pathlib import Path

from onstream.evolution import running_samplers

# Ends itself by a signal four times, and then waits to be told.
FALLS = """
import os, signal, sys
with open(sys.argv[1], "a") as falls:
    falls.write("x")
if os.path.getsize(sys.argv[1]) <= 4:
    os.kill(os.getpid(), signal.SIGKILL)
print("up", file=sys.stderr, flush=True)
sys.stdin.read()
"""


def test_a_sampler_that_was_started_again_leaves_neither_threads_nor_pipes(tmp_path, monkeypatch):
    monkeypatch.setattr("onstream.evolution.beside._RESTART_AFTER_S", 0.0)
    notes, between, up, stop = [], [], threading.Event(), threading.Event()

    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def note(sentence):
        notes.append(sentence)
        between.append(held())
        if len(notes) == 4:
            up.set()

    threads, files = held()
    with running_samplers([[sys.executable, "-c", FALLS, str(tmp_path / "falls")]], stop, note) as failures:
        assert up.wait(60)
    # Between two processes there is the thread that runs them, and nothing else.
    assert between == [(threads + 1, files)] * 4
    assert held() == (threads, files)
    assert (len(notes), failures, stop.is_set()) == (4, [], False)
    assert all("was ended by signal 9 and is started again" in sentence for sentence in notes)


def test_of_what_a_sampler_said_its_last_line_is_told(tmp_path):
    stop = threading.Event()
    command = [sys.executable, "-c", "import sys; sys.exit('first\\nsecond\\n \\n')"]
    with running_samplers([command], stop, print) as failures:
        assert stop.wait(60)
    assert failures == ["a sampler ended with code 1: second"]

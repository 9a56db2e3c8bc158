"""Signals that stop a process, at whatever moment they come."""

import subprocess
import sys
import threading

SIGNALS = 1000
BOUND_S = 120.0

# It waits for the event again and again, so that signals come while it is about to.
CODE = f"""
import threading
from onstream.trainer.signals import stopped_by_signals

for _ in range({SIGNALS}):
    stop = threading.Event()
    with stopped_by_signals(stop) as received:
        print("waiting", flush=True)
        while not stop.is_set():
            stop.wait(1e-5)
    assert len(received) == 1
"""


def test_a_signal_stops_at_whatever_moment_it_comes():
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True) as process:
        alarm = threading.Timer(BOUND_S, process.kill)
        alarm.start()
        for at, _ in enumerate(process.stdout):
            # Some moments later each time, by what this takes.
            sum(range(at % 97 * 100))
            process.terminate()
        alarm.cancel()
    assert process.returncode == 0

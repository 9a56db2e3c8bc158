"""Ten minutes of everything at once: sends, learns, predictions, rollbacks, and kills of the trainer and of the server.

Run it: python -m bench.endurance [MINUTES]

A trainer and a server run as commands. Clients in this process send and learn numbered batches, and ask for
predictions. In the first half the trainer and the server are killed in turn, and started again, until a while before
memory is watched in the second; a tag is rolled back and released all the time. In the end the log, the checkpoint
and what clients noted down must agree:

- every batch that was acknowledged is in the log, once, and nothing else is;
- every row of the log was learned once: the table counts how often it saw each id;
- whoever asked got predictions of his own rows: equal rows of equal versions have equal predictions, but for the
  rounding of batches of another size, however requests were joined;
- no call failed but with UNAVAILABLE.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from bench.common import Figure
from bench.processes import free_port, ready, resident_bytes, started
from onstream import Client, Log
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import OnstreamError, UnavailableError

Memory: TypeAlias = dict[str, list[dict[str, int]]]

MINUTES = 10.0
USERS = 5_000
BATCH_ROWS = 50
KILL_EVERY_S = 15.0
SAMPLE_EVERY_S = 5.0
ROUNDING = 1e-6

# Of the first half, without kills: a process that begins takes memory for a while.
SETTLING_SHARE = 0.2

JOB = Path(__file__).parent / "jobs" / "endurance.py"


@dataclass
class Notes:
    """What the clients of this process saw."""

    acknowledged: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    unavailable: int = 0
    problems: list[str] = field(default_factory=list)
    predicted: dict[tuple[int, int], float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def problem(self, text: str) -> None:
        with self.lock:
            self.problems.append(text)


def write(notes: Notes, address: str, name: str, stop: threading.Event, *, learn: bool) -> None:
    """Send or learn numbered batches; a batch is repeated until it is acknowledged."""
    rng = random.Random(name)
    with Client(address, writer=name, timeout_s=5) as client:
        for number in itertools.count():
            users = [rng.randrange(USERS) for _ in range(BATCH_ROWS)]
            rows = [{"user": user, "click": int(user % 3 == 0)} for user in users]
            while not stop.is_set():
                try:
                    if learn:
                        found = client.learn(rows, sequence=number)
                        if found.rejects or len(found.predictions["click"]) != len(rows):
                            notes.problem(f"{name} {number}: learned {found}")
                    else:
                        client.send(rows, sequence=number)
                except UnavailableError:
                    notes.unavailable += 1
                    continue
                except OnstreamError as error:
                    # What was not answered in time may be in the log; whoever repeats it finds out.
                    if "DeadlineError" not in type(error).__name__:
                        notes.problem(f"{name} {number}: {type(error).__name__}: {error}")
                    continue
                notes.acknowledged[name, number] = users
                notes.calls["learn" if learn else "send"] += 1
                break
            if stop.is_set():
                return
            time.sleep(0.01)


def ask(notes: Notes, address: str, seed: int, stop: threading.Event) -> None:
    """Ask for predictions, and compare them with what others got for the same rows from the same version."""
    rng = random.Random(seed)
    with Client(address, timeout_s=5) as client:
        while not stop.is_set():
            users = [rng.randrange(USERS) for _ in range(rng.randrange(1, 40))]
            try:
                found = client.predict([{"user": user} for user in users])
            except UnavailableError:
                notes.unavailable += 1
                continue
            except OnstreamError as error:
                notes.problem(f"predict: {type(error).__name__}: {error}")
                continue
            notes.calls["predict"] += 1
            values = found.predictions["click"].tolist()
            with notes.lock:
                if len(notes.predicted) > 200_000:
                    notes.predicted.clear()
                for user, value in zip(users, values, strict=True):
                    before = notes.predicted.setdefault((found.version, user), value)
                    if abs(before - value) > ROUNDING:
                        notes.problems.append(f"version {found.version}, user {user}: {before} and {value}")
            time.sleep(0.005)


class Killed:
    """A command that is started again whenever it was killed."""

    def __init__(self, command: list[str], folder: str) -> None:
        self._command = command
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.start()

    def start(self) -> None:
        self.process = self._stack.enter_context(
            started(self._command, environment={"DIRECTORY": self._folder})
        )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def close(self) -> None:
        self._stack.close()


@contextlib.contextmanager
def threads(*targets: Callable[[], None]) -> Iterator[None]:
    running = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in running:
        thread.start()
    yield
    for thread in running:
        thread.join(60)


def roll_back(notes: Notes, model: Path, stop: threading.Event) -> None:
    """Roll the tag back and release it, over and over, with the commands of an operator."""
    while not stop.wait(3):
        for command in ("rollback", "release"):
            found = subprocess.run(
                [sys.executable, "-m", "onstream", command, str(model), "--tag", "production"],
                capture_output=True,
                text=True,
                check=False,
            )
            if found.returncode:
                notes.problem(f"{command}: {found.stdout}{found.stderr}")
            notes.calls[command] += 1
            if stop.wait(1):
                return


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    with tempfile.TemporaryDirectory() as folder:
        notes = Notes()
        flight, rest = free_port(), free_port()
        model, log = Path(folder) / "model", Path(folder) / "examples.db"
        python = [sys.executable, "-m", "onstream"]
        trainer = Killed([*python, "train", str(JOB)], folder)
        server = Killed(
            [
                *(*python, "serve", f"clicks={model}", "--tag", "production", "--log", f"clicks={log}"),
                *("--rest-port", str(rest), "--grpc-port", "-1", "--flight-port", str(flight)),
            ],
            folder,
        )
        address = f"grpc://127.0.0.1:{flight}"
        stop = threading.Event()
        ready(f"http://127.0.0.1:{rest}/v2/health/live")
        with Client(address) as client:
            client.send([{"user": 0, "click": 0}])
        notes.acknowledged["first", 0] = [0]
        ready(f"http://127.0.0.1:{rest}/v2/health/ready")
        workers = [
            lambda: write(notes, address, "sender-0", stop, learn=False),
            lambda: write(notes, address, "sender-1", stop, learn=False),
            lambda: write(notes, address, "learner-0", stop, learn=True),
            lambda: ask(notes, address, 0, stop),
            lambda: ask(notes, address, 1, stop),
            lambda: roll_back(notes, model, stop),
        ]
        kills = 0
        memory: Memory = {"trainer": [], "server": []}
        with threads(*workers):
            begin = time.monotonic()
            end = begin + 60 * minutes
            turn = itertools.cycle((trainer, server))
            half = begin + 30 * minutes
            while time.monotonic() < half - SETTLING_SHARE * 30 * minutes - KILL_EVERY_S:
                time.sleep(KILL_EVERY_S)
                next(turn).kill()
                kills += 1
            time.sleep(half - time.monotonic())
            while time.monotonic() < end:
                time.sleep(SAMPLE_EVERY_S)
                memory["trainer"].append(resident_bytes(trainer.process.pid))
                memory["server"].append(resident_bytes(server.process.pid))
            stop.set()
        wait_until_learned(model, log)
        server.close()
        trainer.close()
        report(notes, model, log, kills, memory)


def wait_until_learned(model: Path, log: Path, timeout_s: float = 120) -> None:
    end = time.monotonic() + timeout_s
    with Log(log, follow=False) as kept:
        while time.monotonic() < end:
            newest = CheckpointLog(LocalStore(model)).newest()
            if newest is not None and newest.positions.get("log") == kept.end:
                return
            time.sleep(0.5)
    raise TimeoutError("the trainer did not come to the end of the log")


def report(notes: Notes, model: Path, log: Path, kills: int, memory: Memory) -> None:
    for problem in notes.problems[:20]:
        print(problem, file=sys.stderr)
    with Log(log, follow=False) as kept:
        chunks = kept.read({}, max_rows=1 << 20, stop=threading.Event())
        users = pa.concat_arrays([chunk.batch.column("user").cast(pa.int64()) for chunk in chunks]).to_numpy()
    in_log = np.bincount(users, minlength=USERS)
    told = [user for batch in notes.acknowledged.values() for user in batch]
    acknowledged = np.bincount(told, minlength=USERS)
    # The last batch of each writer may be in the log though its acknowledgement was cut off.
    lost = int(np.maximum(acknowledged - in_log, 0).sum())
    unclaimed = int(np.maximum(in_log - acknowledged, 0).sum())
    checkpoints = CheckpointLog(LocalStore(model))
    newest = checkpoints.newest()
    assert newest is not None
    learned: dict[int, int] = {}
    for table in newest.tables:
        for delta in checkpoints.rows(newest, table):
            learned.update(zip(delta.keys.tolist(), delta.count.tolist(), strict=True))
    figure = f"endurance, {kills} kills, {sum(notes.calls.values())} calls"
    Figure(f"{figure}: acknowledged rows lost", lost, "rows", goal="<= 0").report()
    spare = 3 * BATCH_ROWS
    Figure(f"{figure}: rows nobody was told of", unclaimed, "rows", goal=f"<= {spare}").report()
    wrong = abs(sum(learned.values()) - len(users)) + sum(
        (Counter(in_log[in_log > 0].tolist()) - Counter(learned.values())).values()
    )
    Figure(f"{figure}: rows not learned exactly once", wrong, "rows", goal="<= 0").report()
    Figure(f"{figure}: problems", len(notes.problems), "problems", goal="<= 0").report()
    for call, count in sorted(notes.calls.items()):
        Figure(f"{figure}: {call}", count, "calls").report()
    Figure(f"{figure}: unavailable", notes.unavailable, "calls").report()
    for name, samples in memory.items():
        for kind, what in (("VmRSS", "resident memory"), ("RssAnon", "resident memory without files")):
            sizes = [sample[kind] for sample in samples]
            figure = f"{what} of the {name}"
            Figure(f"{figure}, median", round(float(np.median(sizes)) / 1e6), "MB").report()
            # What its first and its last part differ by is growth; within a part, checkpoints come and go.
            part = max(1, len(sizes) // 5)
            growth = float(np.mean(sizes[-part:]) / np.mean(sizes[:part]) - 1)
            spread = (max(sizes) - min(sizes)) / min(sizes)
            Figure(f"{figure}, growth over the second half", growth, "share", goal="<= 0.02").report()
            Figure(f"{figure}, highest over lowest, less 1", spread, "share", goal="<= 0.02").report()


if __name__ == "__main__":
    main()

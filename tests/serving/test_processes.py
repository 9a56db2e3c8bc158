"""One server in several processes: real ones, which are asked, killed and told to end."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tritonclient.http

from onstream.client import Client
from onstream.errors import JobError
from onstream.serving.metrics import Metrics
from onstream.serving.ports import held, listen
from onstream.serving.processes import Processes
from onstream.serving.processors import shares
from onstream.serving.server import Server
from onstream.serving.settings import Member, ServerSettings
from onstream.serving.siblings import Siblings
from onstream.serving.version import Version
from onstream.streams import Log
from tests.cli.test_run import JOB, Running, gone
from tests.serving.clicks import BOUND_S, Serving, client, infer, inputs, rows, same
from tests.serving.test_beside import LISTEN, STAY, Notes
from tests.serving.test_served import until
from tests.serving.test_server import FREE, get, samples, status

PROCESSES = 2

LABELS = {"http": "rest", "grpc": "grpc"}

NEW_CONNECTION = {
    "http": {},
    "grpc": {"channel_args": [("grpc.use_local_subchannel_pool", 1)]},
}


def processes_of(server):
    """The ids of its processes, by number."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != server.process.pid:
                continue
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        for word in words:
            if match := re.match(rb"--member=(\d+):", word):
                found[int(match[1])] = int(folder.name)
    return found


def answered(server, wire):
    """How many requests for predictions each process has answered."""
    return {
        int(dict(labels)["process"]): value
        for (name, labels), value in samples(get(f"{server.rest}/metrics")).items()
        if name == "onstream_requests_total" and ("wire", wire) in labels and ("model", "clicks") in labels
    }


def ask_until_all_answered(server, wire, expected):
    """Ask by new connections until each process has answered one; return how many that took."""
    count = 0
    while len(answered(server, LABELS[wire])) < PROCESSES:
        for _ in range(4):
            of = client(wire, server, **NEW_CONNECTION[wire])
            assert same(infer(wire, of, 3, model="clicks")[1], expected)
            of.close()
            count += 1
    return count


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    with Serving(
        *("--processes", PROCESSES, "--no-pin", "--canary", "old=0.000001", "--threads", 1),
        *("--log", f"examples={folder / 'examples.db'}", "--access-log", folder / "access.log"),
        *("--", f"-odd={folder / 'nosuch'}", f"clicks={trained}"),
    ) as served:
        for _ in range(PROCESSES):
            served.wait_for("is ready: version 2")
        served.folder = folder
        yield served
        code, said = served.stop()
        assert code == 0
        assert said.endswith("stopped; all requests that were taken were answered\n")


def test_connections_are_spread_over_processes_which_answer_alike(server):
    expected = infer("http", client("http", server), 3, model="clicks")[1]
    asked = {wire: ask_until_all_answered(server, wire, expected) for wire in LABELS}
    asked["http"] += 1
    for wire, label in LABELS.items():
        until(lambda wire=wire, label=label: sum(answered(server, label).values()) == asked[wire])
    # Each line of the file is whole, whoever wrote it.
    lines = []

    def all_written():
        lines[:] = map(json.loads, (server.folder / "access.log").read_text().splitlines())
        return sum(line["model"] == "clicks" for line in lines) == sum(asked.values())

    until(all_written)


def test_options_are_those_of_every_process(server):
    def have_canary():
        return {
            dict(labels)["process"]
            for (name, labels) in samples(get(f"{server.rest}/metrics"))
            if name == "onstream_model_version" and ("route", "canary") in labels
        }

    until(lambda: have_canary() == {"1", "2"})
    kept_to = [os.sched_getaffinity(pid) for pid in processes_of(server).values()]
    assert kept_to == [os.sched_getaffinity(0)] * PROCESSES


def test_examples_go_to_the_log_by_the_one_that_has_flight(server):
    with Client(server.flight, model="clicks", log="examples") as of:
        assert of.send(rows(3)) == 3
        assert same(of.predict(rows(3)).predictions["click"], infer_one(server))
    with Log(server.folder / "examples.db", follow=False) as log:
        assert log.end == 3


def infer_one(server):
    return infer("http", client("http", server), 3, model="clicks")[1]


@contextlib.contextmanager
def always_ready(server):
    """Whoever gets to a process meanwhile gets to one that can answer."""
    codes, stop = set(), threading.Event()

    def ask():
        while not stop.is_set():
            # A connection that its process had taken ends with it.
            with contextlib.suppress(OSError):
                codes.add(status(f"{server.rest}/v2/health/ready"))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        stop.set()
        asking.join()
    assert codes == {200}


def test_one_that_is_killed_is_started_again_while_the_others_answer(trained, tmp_path, monkeypatch):
    # What a killed process leaves behind goes with the test.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with Serving(f"clicks={trained}", "--processes", PROCESSES, "--access-log", "-") as server:
        for _ in range(PROCESSES):
            server.wait_for("is ready: version 2")
        expected = infer_one(server)
        # The access log goes where it would without other processes.
        assert json.loads(server.wait_for('"model": "clicks"'))["rows"] == 3
        first = processes_of(server)
        assert set(first) == {1, 2}
        kept_to = os.sched_getaffinity(first[1])
        there = os.sched_getaffinity(0)
        assert kept_to < there if len(there) >= PROCESSES else kept_to == there
        with always_ready(server):
            os.kill(first[1], signal.SIGKILL)
            assert gone(first[1])
            # The other one has the port alone until the first one listens again.
            assert same(infer_one(server), expected)
            server.wait_for(f"process 1: the server ended with code {-signal.SIGKILL} and is started again")
            server.wait_for("process 1: clicks is ready: version 2")
        second = processes_of(server)
        assert second[2] == first[2]
        assert second[1] != first[1]
        assert os.sched_getaffinity(second[1]) == kept_to
        with Client(server.flight) as of:
            assert same(of.predict(rows(3)).predictions["click"], expected)
        # None outlives the process that started it.
        server.process.kill()
        assert all(gone(pid) for pid in second.values())


def refused(trained, *options):
    found = subprocess.run(
        [sys.executable, "-m", "onstream", "serve", str(trained), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=BOUND_S,
    )
    assert found.returncode == 2
    return found.stderr


@pytest.mark.parametrize("wire", ["REST", "gRPC", "Flight"])
def test_a_port_in_use_is_told(wire):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        servers = Processes(
            lambda *_: [], 2, host="127.0.0.1", ports={"REST": 0} | {wire: port}, drain_s=BOUND_S
        )
        with pytest.raises(JobError, match=f"cannot serve {wire} at 127.0.0.1:{port}"):
            servers.run(Notes())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])
def test_ports_are_held_for_those_that_share_them_before_one_listens(host):
    with held(host, {"REST": 0, "gRPC": 0}) as ports:
        for port in ports.values():
            with pytest.raises(JobError, match="cannot serve REST"), listen("REST", host, port):
                pass
            with pytest.raises(JobError, match="cannot serve gRPC"), held(host, {"gRPC": port}):
                pass
        with (
            listen("REST", host, ports["REST"], shared=True),
            listen("REST", host, ports["REST"], shared=True),
        ):
            pass
    with listen("REST", host, ports["REST"]):
        pass


def test_flight_alone_is_refused():
    with pytest.raises(JobError, match="Flight cannot be shared"):
        Processes(lambda *_: [], 2, host="127.0.0.1", ports={"Flight": 0}, drain_s=1)


def test_another_server_does_not_share_their_ports(server, trained):
    rest, grpc = (int(address.rpartition(":")[2]) for address in (server.rest, server.grpc))
    others = ("--grpc-port=-1", "--flight-port=-1")
    told = "cannot serve REST at .*; --rest-port takes another port"
    assert re.search(told, refused(trained, "--processes=2", f"--rest-port={rest}", *others))
    others = ("--rest-port=-1", "--flight-port=-1")
    assert "cannot serve gRPC" in refused(trained, f"--grpc-port={grpc}", *others)


def test_one_whose_model_cannot_answer_any_more_ends_to_be_started_again(trained, tmp_path, monkeypatch):
    """A thread that dies is nothing that a request can cause; here it is made to."""
    settings = ServerSettings(**FREE | {"flight_port": None}, member=Member(tmp_path, 1))
    server = Server({"clicks": trained}, settings)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(server.run()))
    thread.start()
    until(lambda: status(f"{server.addresses.rest}/v2/health/ready") == 200)

    def die(*_):
        raise SystemExit

    monkeypatch.setattr(Version, "predict", die)
    with pytest.raises(Exception, match="worker died"):
        client("http", server.addresses).infer("clicks", inputs(tritonclient.http, 1))
    thread.join(BOUND_S)
    assert ended == [False]


def test_metrics_of_all_processes_are_told_by_each(tmp_path):
    both = [Metrics(), Metrics()]
    siblings = [Siblings(Member(tmp_path, at + 1), metrics) for at, metrics in enumerate(both)]
    odd = 'a {b}="c" \\ \r\u2028\x0c # HELP'
    for at, metrics in enumerate(both):
        metrics.observe("rest", odd, "ok", 0.001, 10)
        for _ in range(at + 1):
            metrics.observe("rest", "clicks", "ok", 0.001, 10)
    for one in siblings:
        one.tell()
    text = siblings[0].render().decode()
    found = samples(text)
    # What stands there does not change the numbers themselves.
    own = samples(both[0].render().decode())
    assert {(name, tuple(sorted((*labels, ("process", "1"))))) for name, labels in own} == {
        (name, labels) for name, labels in found if ("process", "1") in labels
    }
    for number in (1, 2):
        labels = {"wire": "rest", "model": "clicks", "process": str(number)}
        assert found["onstream_answered_rows_total", tuple(sorted(labels.items()))] == 10 * number
        assert found["onstream_request_seconds_count", tuple(sorted(labels.items()))] == number
        labels["model"] = odd
        assert found["onstream_answered_rows_total", tuple(sorted(labels.items()))] == 10
    # One head a family, whatever the number of processes.
    assert text.count("# TYPE onstream_requests_total counter") == 1
    assert samples(siblings[1].render().decode()).keys() == found.keys()


def test_numbers_of_a_process_that_tells_none_are_left_out(tmp_path):
    metrics = Metrics()
    metrics.observe("rest", "clicks", "ok", 0.001, 10)
    siblings = [Siblings(Member(tmp_path, number), metrics) for number in (1, 2)]
    siblings[1].tell()
    assert b'process="2"' in siblings[0].render()
    long_ago = time.time() - 3600
    os.utime(tmp_path / "2.prom", (long_ago, long_ago))
    assert b'process="2"' not in siblings[0].render()
    # A folder that was cleaned away is made again.
    shutil.rmtree(tmp_path)
    siblings[1].tell()
    assert b'process="2"' in siblings[0].render()


def saying(status):
    told = f"say('status: ' + {json.dumps(status)!r}); "
    return [sys.executable, "-c", LISTEN + told + STAY]


def test_numbers_of_all_are_told_as_those_of_one():
    told = [
        {"rows_per_s": 10.0, "p99_s": 0.002, "version": 7, "staleness_s": 0.5},
        {"rows_per_s": 5.0, "p99_s": 0.001, "version": 6, "staleness_s": 1.5},
    ]
    servers = Processes(
        lambda one, _: saying(told[one.number - 1]), 2, host="127.0.0.1", ports={}, drain_s=BOUND_S
    )
    notes, found = Notes(), []

    def heard(numbers):
        found.append(numbers)
        # What was told is there when both were heard.
        if numbers.get("rows_per_s") == 15.0:
            servers.stop()

    servers.run(notes, heard)
    assert found[-1] == {"rows_per_s": 15.0, "p99_s": 0.002, "version": 6, "staleness_s": 1.5}
    assert notes.lines[0] == "listening: here"
    assert notes.lines[1].startswith("2 processes share that")


@pytest.mark.parametrize("pin", [True, False])
@pytest.mark.parametrize("count", [2, 4])
def test_each_keeps_to_processors_of_its_own_where_there_are_as_many(pin, count):
    tell = "import os; say(json.dumps(sorted(os.sched_getaffinity(0)))); "
    command = [sys.executable, "-c", f"import json; {LISTEN}{tell}{STAY}"]
    servers = Processes(lambda *_: command, count, host="127.0.0.1", ports={}, drain_s=BOUND_S, pin=pin)
    notes, found = Notes(), []
    few = set(sorted(os.sched_getaffinity(0))[:3])

    def run():
        # Of this thread alone.
        os.sched_setaffinity(0, few)
        servers.run(notes)
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    notes.wait_for("process ", count)
    servers.stop()
    thread.join(BOUND_S)
    # What starts them keeps to none of the shares.
    assert found == [few]
    told = [set(json.loads(line.partition(": ")[2])) for line in notes.lines if line.startswith("process ")]
    own = "each on processors of its own"
    if pin and count <= len(few):
        assert own in notes.lines[1]
        assert sum(map(len, told)) == len(few)
        assert set().union(*told) == few
    else:
        assert own not in notes.lines[1]
        assert told == [few] * count


def test_processors_with_a_cache_in_common_go_to_one_process(tmp_path):
    # Two packages of two cores of two threads each, numbered as Linux does: thread by thread, packages in turn.
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{number % 2}\n")
        (folder / "core_id").write_text(f"{number // 2 % 2}\n")
    assert shares(2, range(8), tmp_path) == [[0, 4, 2, 6], [1, 5, 3, 7]]
    assert shares(4, range(8), tmp_path) == [[0, 4], [2, 6], [1, 5], [3, 7]]
    assert shares(3, range(8), tmp_path) == [[0, 4], [2, 6, 1], [5, 3, 7]]
    # Of those that it may use; by their numbers where nothing is told of them.
    assert shares(2, {1, 4, 6}, tmp_path) == [[4], [6, 1]]
    assert shares(2, [3, 0, 2, 1], tmp_path / "nosuch") == [[0, 1], [2, 3]]
    assert shares(9, range(8), tmp_path) == [[]] * 9
    # A last cache counts before cores.
    for number, cache in enumerate([0, 1, 0, 1]):
        folder = tmp_path / "caches" / f"cpu{number}" / "cache" / "index3"
        folder.mkdir(parents=True)
        (folder / "id").write_text(f"{cache}\n")
    assert shares(2, range(4), tmp_path / "caches") == [[0, 2], [1, 3]]


ENDS = "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit({code})); "


@pytest.mark.parametrize(("codes", "finished"), [((0, 0), True), ((0, 1), False)])
def test_all_must_have_finished_what_they_began(codes, finished):
    def command(one, _):
        ends = ENDS.format(code=codes[one.number - 1])
        return [sys.executable, "-c", f"import sys; {ends}{LISTEN}say('ready'); {STAY}"]

    servers = Processes(command, 2, host="127.0.0.1", ports={}, drain_s=BOUND_S)
    notes, result = Notes(), []
    thread = threading.Thread(target=lambda: result.append(servers.run(notes)))
    thread.start()
    notes.wait_for("ready", 2)
    servers.stop()
    thread.join(BOUND_S)
    assert result == [finished]


def test_it_stops_though_one_never_listens():
    def command(one, _):
        return [sys.executable, "-c", "import sys; " + (LISTEN if one.number == 1 else "") + STAY]

    servers = Processes(command, 2, host="127.0.0.1", ports={}, drain_s=BOUND_S)
    notes, result = Notes(), []
    thread = threading.Thread(target=lambda: result.append(servers.run(notes)))
    thread.start()
    servers.stop()
    thread.join(BOUND_S)
    assert result == [True]
    assert notes.lines == []


def test_what_keeps_one_from_listening_is_raised_and_the_others_are_ended():
    def command(one, _):
        if one.number == 1:
            return [sys.executable, "-c", LISTEN + STAY]
        return [sys.executable, "-c", "print('onstream: no room')"]

    servers = Processes(command, 2, host="127.0.0.1", ports={}, drain_s=BOUND_S)
    with pytest.raises(JobError, match="the server did not start: no room"):
        servers.run(Notes())


@pytest.mark.long
def test_a_job_is_served_by_several(tmp_path):
    with Running(tmp_path, JOB, "--processes", "2") as running:
        with running.client() as of:
            assert of.learn([{"user": 1, "click": 1}]).examples == 1
        # Beside a trainer they keep to no processors.
        running.until("2 processes share that; Flight is the first one's")
        running.until("process 2: clicks is ready")
        assert running.end() == 130

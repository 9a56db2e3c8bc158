"""The client: rows in any common form, each call done once, errors of ours only."""

import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from onstream import Client
from onstream.errors import AccessError, DeadlineError, NotFoundError, RequestError, UnavailableError
from onstream.serving.access import Access
from onstream.serving.flight import FlightServer
from onstream.streams import Log
from tests.serving.flights import Linear, certificates, served
from tests.serving.learning import training

ROOT = Path(__file__).parents[1]


@pytest.fixture
def server(tmp_path):
    with served(tmp_path) as server:
        yield server


@pytest.fixture
def client(server):
    with Client(server.address, timeout_s=30) as client:
        yield client


def stored(log):
    chunks = log.replay(follow=False).read({"log": log.first}, max_rows=100_000, stop=threading.Event())
    return [row for chunk in chunks for row in chunk.batch.to_pylist()]


TWO = [{"x": 1.0}, {"x": 2.0}]


@pytest.mark.parametrize(
    "rows",
    [
        TWO,
        tuple(TWO),
        [{"x": np.float32(1)}, {"x": 2}],
        pa.Table.from_pylist(TWO),
        pa.concat_tables([pa.Table.from_pylist(TWO[:1]), pa.Table.from_pylist(TWO[1:])]),
        pa.RecordBatch.from_pylist(TWO),
        pd.DataFrame(TWO, index=[5, 3]),
        pl.DataFrame(TWO),
    ],
    ids=lambda rows: type(rows).__module__.split(".")[0] + "." + type(rows).__name__,
)
def test_rows_may_be_dicts_or_any_frame(server, client, rows):
    prediction = client.predict(rows)
    assert prediction.version == 7
    assert prediction.predictions["y"].tolist() == [9, 11]
    assert prediction.predictions["y"].dtype == np.float32
    assert prediction.predictions["kind"].tolist() == [[1, 2, 3], [2, 3, 4]]
    assert client.send(rows) == 2
    assert [row["x"] for row in stored(server.logs["events"])] == [1, 2]


def test_one_dict_is_one_row(server, client):
    assert client.predict({"x": 3.0}, version=6).predictions["y"].tolist() == [12]
    assert client.send({"x": 3.0}) == 1


@pytest.mark.parametrize("rows", ["text", 7, [1, 2], {}, [], [{"x": 1}, {"x": "a"}], pa.array([1])])
def test_what_is_no_rows_is_refused(server, client, rows):
    for call in (client.predict, client.send, client.learn):
        with pytest.raises(RequestError):
            call(rows)
    assert server.logs["events"].end == 0


def test_learning_returns_what_was_predicted_before(tmp_path, server, client):
    with training(server.logs["events"], tmp_path / "model"):
        first = client.learn([{"user": 7, "click": 1.0}, {"user": 8, "click": 3.0}])
        assert first.predictions["click"].tolist()[0] == 0.5
        assert math.isnan(first.predictions["click"][1])
        assert list(first.rejects) == [1]
        assert first.loss == pytest.approx(math.log(2))
        assert (first.position, first.examples) == (2, 1)
        second = client.learn({"user": 7, "click": 1.0})
        assert second.predictions["click"].tolist() == pytest.approx([1 / (1 + math.exp(-0.5))])
        assert (second.position, second.examples) == (3, 2)


def test_threads_share_a_client_and_each_gets_its_own(tmp_path, server, client):
    wrong = []

    def work(k):
        for i in range(10):
            x = float(100 * k + i)
            if client.predict([{"x": x}]).predictions["y"].tolist() != [2 * x + 7]:
                wrong.append(x)
            client.send({"user": int(x), "click": 1.0})
            if client.learn({"user": int(x), "click": 1.0}).predictions["click"].shape != (1,):
                wrong.append(x)

    with training(server.logs["events"], tmp_path / "model"):
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    users = [row["user"] for row in stored(server.logs["events"])]
    assert sorted(users) == sorted(2 * [100 * k + i for k in range(4) for i in range(10)])


def test_many_rows_are_sent_in_parts_and_in_order(server, client):
    x = np.arange(5_000_000, dtype=np.float64)
    assert client.send(pa.table({"x": x})) == len(x)
    log = server.logs["events"]
    chunks = list(log.replay(follow=False).read({}, max_rows=10_000_000, stop=threading.Event()))
    assert len(chunks) > 2
    assert np.array_equal(np.concatenate([chunk.batch["x"].to_numpy() for chunk in chunks]), x)


def test_a_named_writer_says_its_numbers_and_repeats_add_nothing_also_from_a_new_client(server):
    for _ in range(2):
        with Client(server.address, writer="loader") as client:
            assert client.send({"x": 1.0}, sequence=10) == 1
            assert client.send(TWO, sequence=20) == 3
    with Client(server.address, writer="loader") as client:
        with pytest.raises(RequestError, match="other rows"):
            client.send({"x": 9.0}, sequence=20)
        with pytest.raises(RequestError, match="went on to 20"):
            client.send({"x": 9.0}, sequence=15)
        with pytest.raises(RequestError, match="needs one a call"):
            client.send({"x": 9.0})
    with Client(server.address) as client, pytest.raises(RequestError, match="needs a writer"):
        client.learn({"x": 9.0}, sequence=1)
    assert len(stored(server.logs["events"])) == 3


def test_errors_are_ours_and_say_what_the_server_said(tmp_path):
    slow = Linear("slow", hold=True)
    models = {"linear": Linear(), "slow": slow}
    with served(tmp_path, models=models, logs=("a", "b"), access=Access(tokens=["secret"])) as server:
        with (
            Client(server.address, token="wrong") as client,
            pytest.raises(AccessError, match="bearer token"),
        ):
            client.send({"x": 1.0})
        with Client(server.address, token="secret", model="other", log="c", timeout_s=5) as client:
            with pytest.raises(NotFoundError, match="there is no model 'other'"):
                client.predict({"x": 1.0})
            with pytest.raises(NotFoundError, match="there is no log 'c'"):
                client.send({"x": 1.0})
        with Client(server.address, token="secret", model="linear", log="b") as client:
            with pytest.raises(RequestError, match="column 'x' is missing"):
                client.predict({"z": 1.0})
            with pytest.raises(NotFoundError, match="version 5"):
                client.predict({"x": 1.0}, version=5)
            with pytest.raises(DeadlineError, match="are in the log, but were not learned"):
                client.learn({"x": 1.0}, timeout_s=0.3)
            assert (server.logs["a"].end, server.logs["b"].end) == (0, 1)
        with Client(server.address, token="secret", model="slow") as client:
            with pytest.raises(DeadlineError):
                client.predict({"x": 1.0}, timeout_s=0.2)
            models["slow"].broken = OSError("/secret")
            with pytest.raises(UnavailableError, match="internal error"):
                client.predict({"x": 1.0})


def test_tls_and_client_certificates_work(tmp_path):
    made = certificates(tmp_path)
    access = Access(certificate=made["server.pem"], key=made["server.key"], client_ca=made["ca.pem"])
    own = {"certificate": made["client.pem"], "key": made["client.key"]}
    with served(tmp_path, access=access) as server:
        with Client(server.address, tls_root=made["ca.pem"], **own) as client:
            assert client.predict({"x": 1.0}).version == 7
        stranger = Client(server.address, tls_root=made["ca.pem"], timeout_s=0.3)
        with stranger, pytest.raises(UnavailableError):
            stranger.predict({"x": 1.0})


def test_settings_that_make_no_sense_are_refused(tmp_path):
    for wrong in (
        {"address": "nonsense"},
        {"timeout_s": 0},
        {"certificate": tmp_path / "only.pem"},
        {"tls_root": tmp_path / "missing.pem"},
    ):
        with pytest.raises(RequestError):
            Client(**wrong)


def test_calls_wait_for_a_server_that_comes_back_until_their_time_is_up(tmp_path):
    with Log(tmp_path / "log.db") as log:
        with FlightServer({}, {"log": log}, port=0) as server:
            port = server.port
        with Client(f"grpc://127.0.0.1:{port}", timeout_s=60) as client:
            with pytest.raises(UnavailableError):
                client.send({"x": 1.0}, timeout_s=0.2)
            found = []
            sending = threading.Thread(target=lambda: found.append(client.send({"x": 2.0})))
            sending.start()
            with FlightServer({}, {"log": log}, port=port):
                sending.join(60)
            assert found == [1]


def test_learning_waits_for_a_late_trainer_though_the_server_gives_up_sooner(tmp_path):
    told = threading.Event()

    def observe(wire, name, status, seconds, num_rows):
        if status == "deadline":
            told.set()

    with served(tmp_path, timeout_s=0.05, observe=observe) as server:
        with Client(server.address, timeout_s=60) as client:
            found = []
            learning = threading.Thread(
                target=lambda: found.append(client.learn({"user": 7, "click": 1.0})), daemon=True
            )
            learning.start()
            assert told.wait(60)
            with training(server.logs["events"], tmp_path / "model"):
                learning.join(60)
            assert found[0].predictions["click"].tolist() == [0.5]
        assert (found[0].position, server.logs["events"].end) == (1, 1)


def test_the_client_needs_no_pytorch():
    look = "import onstream, sys; onstream.Client('grpc://127.0.0.1:1'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)


class Server:
    """A server in a process of its own, on a port that it keeps, killed and begun again."""

    def __init__(self, log: Path, *model: Path):
        self.arguments = [sys.executable, "-m", "tests.serving.flight_process", str(log)]
        self.model = [str(path) for path in model]
        self.port = 0

    def start(self):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [*self.arguments, str(self.port), *self.model], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        )
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        self.process.stdout.close()


def test_however_often_the_server_is_killed_each_row_is_in_the_log_once_and_in_order(tmp_path):
    server = Server(tmp_path / "log.db")
    server.start()
    acknowledged: list[list[int]] = [[], []]
    errors = []
    killed = threading.Event()

    def write(k):
        try:
            with Client(f"grpc://127.0.0.1:{server.port}", timeout_s=120) as client:
                while not killed.is_set():
                    n = len(acknowledged[k])
                    end = client.send([{"writer": k, "n": 2 * n}, {"writer": k, "n": 2 * n + 1}])
                    acknowledged[k].append(end)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        before = [len(ends) for ends in acknowledged]
        # Both writers get on between two kills.
        while not errors and any(len(e) < b + 20 for e, b in zip(acknowledged, before, strict=True)):
            threading.Event().wait(0.005)
        server.kill()
        server.start()
    killed.set()
    for thread in threads:
        thread.join(120)
    server.kill()
    assert errors == []
    with Log(tmp_path / "log.db") as log:
        rows = stored(log)
    for k, ends in enumerate(acknowledged):
        assert [row["n"] for row in rows if row["writer"] == k] == list(range(2 * len(ends)))
        assert all(rows[end - 1] == {"writer": k, "n": 2 * i + 1} for i, end in enumerate(ends))


def test_when_server_and_trainer_are_killed_each_row_is_learned_once(tmp_path):
    server = Server(tmp_path / "log.db", tmp_path / "model")
    server.start()
    learned, known = [], []
    errors = []
    killed = threading.Event()

    def learn():
        try:
            with Client(f"grpc://127.0.0.1:{server.port}", timeout_s=120) as client:
                while not killed.is_set():
                    learned.append(client.learn({"user": len(learned), "click": 1.0}))
                again = client.learn([{"user": user, "click": 1.0} for user in range(len(learned))])
                known.extend(again.predictions["click"].tolist())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=learn)
    thread.start()
    for enough in (20, 40):
        while not errors and len(learned) < enough:
            threading.Event().wait(0.005)
        if enough == 20:
            server.kill()
            server.start()
    killed.set()
    thread.join(120)
    server.kill()
    assert errors == []
    assert [one.predictions["click"][0] for one in learned] == [0.5] * len(learned)
    assert [one.position for one in learned] == list(range(1, len(learned) + 1))
    # Each user was learned from once: from 0, half of a step.
    assert known == pytest.approx([1 / (1 + math.exp(-0.5))] * len(learned))

"""The server: all wires before the same models, who may ask, and how it ends."""

import contextlib
import json
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.flight as fl
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from onstream.client import Client
from onstream.errors import JobError, UnavailableError
from onstream.serving.access import Access
from onstream.serving.access_log import AccessLog
from onstream.serving.server import Server
from onstream.serving.settings import ModelSettings, ServerSettings
from onstream.streams import Log
from tests.serving.clicks import BOUND_S, client, infer, rows, same
from tests.serving.test_served import until

FREE = {"rest_port": 0, "grpc_port": 0, "flight_port": 0}
WIRES = ("http", "grpc")


@contextlib.contextmanager
def serving(models, access=None, *, logs=None, **settings):
    with Server(models, ServerSettings(**FREE | settings), access, logs=logs) as server:
        if models:
            asked = f"{server.addresses.rest}/v2/health/ready"
            until(lambda: access is not None or status(asked) == 200)
        yield server


def get(url, **headers):
    return (
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=BOUND_S).read().decode()
    )


def status(url):
    try:
        return urllib.request.urlopen(url, timeout=BOUND_S).status
    except urllib.error.HTTPError as error:
        return error.code


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_all_wires_give_the_same_predictions_of_all_models(trained):
    models = {"clicks": trained, "older": ModelSettings(directory=trained, tag="old")}
    with serving(models) as server:
        said = {}
        for model, version in (("clicks", 2), ("older", 1)):
            for wire in WIRES:
                found, values = infer(wire, client(wire, server.addresses), 5, model=model)
                assert found == version
                said.setdefault(model, values.tolist())
                assert values.tolist() == said[model]
            with Client(server.addresses.flight, model=model) as flight:
                answer = flight.predict(rows(5))
                assert answer.version == version
                assert answer.predictions["click"].tolist() == said[model]
        assert said["clicks"] != said["older"]
        with pytest.raises(InferenceServerException, match="there is no model 'third'"):
            infer("http", client("http", server.addresses), 1, model="third")


def test_metrics_count_what_the_wires_answered(trained):
    with serving({"clicks": trained}) as server:
        for wire in WIRES:
            of = client(wire, server.addresses)
            for _ in range(3):
                infer(wire, of, 7, model="clicks")
            with pytest.raises(InferenceServerException):
                infer(wire, of, 1, model="clicks", model_version="99")
        found = samples(get(f"{server.addresses.rest}/metrics"))
    for wire in ("rest", "grpc"):
        labels = (("model", "clicks"), ("wire", wire))
        assert found["onstream_answered_rows_total", labels] == 21
        assert found["onstream_request_seconds_count", labels] == 4
        assert found["onstream_requests_total", (labels[0], ("status", "ok"), labels[1])] == 3
        assert found["onstream_requests_total", (labels[0], ("status", "not_found"), labels[1])] == 1
        edges = {dict(of)["le"] for name, of in found if name == "onstream_request_seconds_bucket"}
        assert min(map(float, edges)) == 50e-6
    assert found["onstream_model_version", (("model", "clicks"), ("route", "usual"))] == 2
    assert found["onstream_model_ready", (("model", "clicks"),)] == 1
    assert found["onstream_queue_rows", (("model", "clicks"),)] == 0


def test_every_request_is_a_line_of_the_access_log(trained, tmp_path):
    path = tmp_path / "access.log"
    with serving({"clicks": trained}, access_log=path) as server:
        for wire in WIRES:
            infer(wire, client(wire, server.addresses), 7, model="clicks")
        with pytest.raises(InferenceServerException):
            infer("http", client("http", server.addresses), 1, model="clicks", model_version="99")
        # It is written beside the metrics, not in their place.
        assert 'onstream_answered_rows_total{model="clicks",wire="rest"} 7' in get(
            f"{server.addresses.rest}/metrics"
        )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    asked = [line for line in lines if line["model"] == "clicks"]
    assert [(line["wire"], line["status"], line["rows"]) for line in asked] == [
        ("rest", "ok", 7),
        ("grpc", "ok", 7),
        ("rest", "not_found", 0),
    ]
    assert all(line["time"] > 1e9 and line["microseconds"] > 0 for line in lines)


def test_lines_that_there_is_no_time_for_are_counted(tmp_path):
    path = tmp_path / "access.log"
    log = AccessLog(path, depth=10)
    for _ in range(10_000):
        log.observe("rest", "clicks", "ok", 1e-3, 1)
    log.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lost = sum(line.get("lost", 0) for line in lines)
    assert lost > 0
    assert lost + sum("wire" in line for line in lines) == 10_000


def test_an_access_log_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(JobError, match=r"the access log .* cannot be written"):
        AccessLog(tmp_path)


def test_examples_are_taken_into_the_logs_of_the_server(tmp_path):
    with Log(tmp_path / "examples.db") as log, serving({}, logs={"examples": log}) as server:
        with Client(server.addresses.flight) as flight:
            flight.send(rows(5))
        assert log.end == 5


# ---------------------------------------------------------------------------------------- who may ask


def test_others_are_not_let_in_unasked(trained):
    anywhere = ServerSettings(**FREE | {"host": "0.0.0.0"})
    with pytest.raises(JobError, match=r"refusing to listen on '0.0.0.0'"):
        Server({"clicks": trained}, anywhere)
    with Server({"clicks": trained}, anywhere, Access(tokens=["secret"])) as server:
        url = server.addresses.rest.replace("0.0.0.0", "127.0.0.1")
        for path in ("/v2/models/clicks", "/metrics"):
            assert status(url + path) == 401
        until(lambda: status(f"{url}/v2/health/ready") == 200)
        assert "onstream_model_ready" in get(f"{url}/metrics", Authorization="Bearer secret")
    with Server({"clicks": trained}, anywhere, Access(insecure=True)) as server:
        assert server.addresses.grpc.startswith("0.0.0.0:")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and certificates of it for server and client."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True, cwd=folder)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(
        "req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl("req", "-new", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-out", f"{name}.pem")
    return folder


def test_with_an_authority_every_wire_asks_for_a_client_certificate(trained, certificates):
    of = {
        name: certificates / name
        for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")
    }
    access = Access(certificate=of["server.pem"], key=of["server.key"], client_ca=of["ca.pem"])
    with serving({"clicks": trained}, access) as server:
        assert server.addresses.rest.startswith("https://")
        rest = server.addresses.rest.removeprefix("https://")

        def options(known):
            names = {"ca_certs": of["ca.pem"], "certfile": of["client.pem"], "keyfile": of["client.key"]}
            http = {k: str(v) for k, v in names.items() if known or k == "ca_certs"}
            pair = {"private_key": str(of["client.key"]), "certificate_chain": str(of["client.pem"])}
            return {
                "http": {"ssl": True, "ssl_options": http},
                "grpc": {"ssl": True, "root_certificates": str(of["ca.pem"]), **(pair if known else {})},
            }

        assert rest
        for wire in WIRES:
            known = client(wire, server.addresses, **options(True)[wire])
            until(lambda known=known: known.is_model_ready("clicks"))
            assert infer(wire, known, 3, model="clicks")[0] == 2
            with pytest.raises(
                Exception, match=r"(?i)ssl|tls|certificate|unavailable|connect|handshake|closed|peer"
            ):
                infer(wire, client(wire, server.addresses, **options(False)[wire]), 3, model="clicks")


def test_files_that_are_no_certificates_are_refused(trained, tmp_path):
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("wrong")
    with (
        pytest.raises(JobError, match="the certificate or key cannot be used"),
        Server({"clicks": trained}, ServerSettings(**FREE), Access(certificate=wrong, key=wrong)),
    ):
        pass


@pytest.mark.parametrize("wire", ["rest", "grpc", "flight"])
def test_a_port_in_use_is_told_and_leaves_no_wire_open(trained, wire):
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as spare:
        port = taken.getsockname()[1]
        other = spare.getsockname()[1]
        spare.close()
        ports = FREE | {"rest_port" if wire != "rest" else "grpc_port": other, f"{wire}_port": port}
        with (
            pytest.raises(JobError, match=rf"(?i)cannot serve {wire} at 127.0.0.1:{port}"),
            Server({"clicks": trained}, ServerSettings(**ports)),
        ):
            pass
        socket.create_server(("127.0.0.1", other)).close()


def test_a_second_server_does_not_share_the_port_of_the_first(trained):
    with Server({"clicks": trained}, ServerSettings(**FREE)) as first:
        ports = {
            name: int(getattr(first.addresses, name).rpartition(":")[2])
            for name in ("rest", "grpc", "flight")
        }
        for wire, port in ports.items():
            with (
                pytest.raises(JobError, match="cannot serve"),
                Server({"clicks": trained}, ServerSettings(**FREE | {f"{wire}_port": port})),
            ):
                pass


@pytest.mark.parametrize(
    ("models", "settings", "reason"),
    [
        ({}, {}, "nothing to serve"),
        ({"a": "x"}, {"rest_port": None, "grpc_port": None, "flight_port": None}, "all ports are off"),
        ({"a": "x"}, {"rest_port": 70_000}, "rest_port must be from 0 to 65535"),
        ({"a": "x"}, {"rest_port": 9000, "grpc_port": 9000}, "a port of its own"),
        ({"a": "x"}, {"drain_s": -1}, "drain_s must be"),
        ({"a": "x"}, {"torch_threads": 0}, "torch_threads must be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(models, settings, reason):
    with pytest.raises(JobError, match=reason):
        Server(models, ServerSettings(**settings))


@pytest.mark.parametrize(
    "name", ["max_staleness_s", "max_rows", "max_queue_rows", "max_queue_requests", "threads"]
)
def test_limits_of_a_model_are_above_0(name):
    with pytest.raises(JobError, match=name):
        ModelSettings(directory="x", **{name: 0})


def test_logs_need_the_wire_that_fills_them(tmp_path):
    with Log(tmp_path / "log.db") as log, pytest.raises(JobError, match="over Flight, which is off"):
        Server({"a": "x"}, ServerSettings(flight_port=None), logs={"log": log})


# ------------------------------------------------------------------------------------------- how it ends


def test_it_ends_within_its_bound_though_clients_hold_streams_and_connections_open(trained):
    with contextlib.ExitStack() as held:
        server = Server({"clicks": trained}, ServerSettings(**FREE | {"drain_s": 0.5}))
        held.enter_context(server)
        until(lambda: status(f"{server.addresses.rest}/v2/health/ready") == 200)
        port = int(server.addresses.rest.rpartition(":")[2])
        # Half a request, whose rest never comes.
        half = held.enter_context(socket.create_connection(("127.0.0.1", port)))
        half.sendall(b"POST /v2/models/clicks/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{")
        idle = held.enter_context(socket.create_connection(("127.0.0.1", port)))
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200 OK" in idle.recv(4096)
        grpc = client("grpc", server.addresses)
        assert infer("grpc", grpc, 1, model="clicks")[0] == 2
        flight = held.enter_context(Client(server.addresses.flight))
        assert flight.predict(rows(1)).version == 2
        command = fl.FlightDescriptor.for_command(json.dumps({"verb": "predict", "model": "clicks"}))
        writer, reader = fl.connect(server.addresses.flight).do_exchange(command)
        writer.begin(rows(1).schema)
        writer.write_batch(rows(1))
        assert reader.read_chunk().data.num_rows == 1
        ended = threading.Thread(target=server.__exit__, args=(None, None, None))
        ended.start()
        ended.join(BOUND_S)
        assert not ended.is_alive()
        # All that was open is closed.
        for connection in (half, idle):
            connection.settimeout(BOUND_S)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
        with pytest.raises(InferenceServerException):
            infer("grpc", grpc, 1, model="clicks")
        with pytest.raises(UnavailableError):
            flight.predict(rows(1), timeout_s=0.1)
        with pytest.raises(fl.FlightError):
            reader.read_chunk()


def test_stopping_answers_every_request_that_was_taken(trained):
    """Clients ask without pause while it stops: each gets its own rows, or is told that there is no server."""
    server = Server({"clicks": trained}, ServerSettings(**FREE))
    with server:
        until(lambda: status(f"{server.addresses.rest}/v2/health/ready") == 200)
        expected = {
            first: infer("http", client("http", server.addresses), 3, first, model="clicks")[1].tolist()
            for first in range(5)
        }
        wrong = []
        answered = threading.Semaphore(0)

        def ask(wire, first):
            of = client(wire, server.addresses)
            while True:
                try:
                    values = infer(wire, of, 3, first, model="clicks")[1].tolist()
                except InferenceServerException as error:
                    if "going away" not in str(error) and "UNAVAILABLE" not in str(error.status()):
                        wrong.append((wire, error.status(), error.message()))
                    return
                except (OSError, EOFError) as error:
                    if not isinstance(error, ConnectionError):
                        wrong.append(error)
                    return
                if not same(values, expected[first]):
                    wrong.append(values)
                answered.release()

        threads = [threading.Thread(target=ask, args=(wire, first)) for wire in WIRES for first in range(5)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            assert answered.acquire(timeout=BOUND_S)
    for thread in threads:
        thread.join(BOUND_S)
        assert not thread.is_alive()
    assert wrong == []
    assert not np.isnan([value for values in expected.values() for value in values]).any()


@pytest.mark.long
def test_memory_does_not_grow_with_requests(trained):
    with serving({"clicks": trained}) as server:
        of = {wire: client(wire, server.addresses) for wire in WIRES}

        def ask(times):
            for i in range(times):
                for wire in WIRES:
                    infer(wire, of[wire], 50, i, model="clicks")

        ask(2_000)
        before = resident()
        ask(6_000)
        assert resident() - before < 4 << 20


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

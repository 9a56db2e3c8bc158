"""The command that serves, in a process of its own, asked by the clients of the protocol."""

import asyncio
import signal
import socket
import threading

import pyarrow.flight as fl
import pytest
import tritonclient.grpc.aio
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from onstream.client import Client
from onstream.errors import RequestError
from onstream.streams import Log
from tests.cli.commands import Command
from tests.serving.clicks import Serving, client, copied, infer, inputs, log_of, rows, same, train
from tests.serving.test_server import get, samples, status

COUNTS = (1, 7, 100)


@pytest.fixture(scope="module")
def server(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    arguments = [f"clicks={trained}", f"older={trained}", "--log", f"examples={folder / 'examples.db'}"]
    with Serving(*arguments, "--canary", "old=0.5", "--access-log", folder / "access.log") as served:
        for _ in range(2):
            served.wait_for("is ready: version 2")
        served.folder = folder
        yield served


@pytest.fixture
def onstream(monkeypatch, capsys):
    return Command(monkeypatch, capsys)


def test_every_tritonclient_gets_the_same_predictions(server):
    values = {}
    for count in COUNTS:
        for wire in ("http", "grpc"):
            of = client(wire, server)
            assert of.is_server_live()
            assert of.is_server_ready()
            assert of.is_model_ready("clicks")
            version, found = infer(wire, of, count, model="clicks", model_version="2")
            assert version == 2
            values.setdefault(count, found.tolist())
            assert found.tolist() == values[count]

    async def ask(module, url, count):
        async with module.InferenceServerClient(url) as of:
            answer = await of.infer("clicks", inputs(module, count), model_version="2")
            return answer.as_numpy("click").tolist()

    for count in COUNTS:
        rest = server.rest.removeprefix("http://")
        assert asyncio.run(ask(tritonclient.http.aio, rest, count)) == values[count]
        assert asyncio.run(ask(tritonclient.grpc.aio, server.grpc, count)) == values[count]


def test_a_directory_that_is_not_there_is_waited_for_and_said_to_be(tmp_path):
    with Serving(f"clicks={tmp_path / 'nosuch'}") as server:
        server.wait_for(f"there is no directory '{tmp_path / 'nosuch'}' yet; it is waited for")


def test_many_clients_at_once_each_get_their_own_rows(server):
    alone = [infer("http", client("http", server), 3, i, "clicks", model_version="2")[1] for i in range(8)]
    assert not any(same(alone[i], alone[j]) for i in range(8) for j in range(i))
    wrong = []

    def ask(wire, first):
        of = client(wire, server)
        for _ in range(30):
            version, found = infer(wire, of, 3, first, "clicks", model_version="2")
            if version != 2 or not same(found, alone[first]):
                wrong.append(found)

    threads = [
        threading.Thread(target=ask, args=(wire, first)) for wire in ("http", "grpc") for first in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    found = samples(get(f"{server.rest}/metrics"))
    of_model = (("model", "clicks"), ("route", "usual"))
    assert found["onstream_batch_requests_count", of_model] < found["onstream_batch_requests_sum", of_model]


def test_a_canary_answers_its_share(server):
    of = client("http", server)
    versions = [infer("http", of, 1, i, "clicks")[0] for i in range(200)]
    assert 60 < versions.count(1) < 140
    assert versions.count(1) + versions.count(2) == 200


def test_examples_are_sent_into_the_log(server):
    with Client(server.flight, log="examples") as of:
        of.send(rows(5))
    with Log(server.folder / "examples.db") as log:
        assert log.end == 5


def test_requests_over_the_limits_that_were_set_are_refused_on_every_wire(trained, tmp_path):
    limits = ("--max-request-rows", "8", "--max-body-bytes", "4096")
    with Serving(f"clicks={trained}", "--log", f"examples={tmp_path / 'log.db'}", *limits) as server:
        server.wait_for("is ready: version 2")
        for wire in ("http", "grpc"):
            of = client(wire, server)
            assert infer(wire, of, 8, model="clicks")[0] == 2
            with pytest.raises(InferenceServerException, match="from 1 to 8 rows, got 9"):
                infer(wire, of, 9, model="clicks")
            with pytest.raises(InferenceServerException, match=r"4096|larger"):
                infer(wire, of, 5_000, model="clicks")
        with Client(server.flight) as of:
            assert of.predict(rows(8)).version == 2
            assert of.send(rows(8)) == 8
            for call in (of.predict, of.send, of.learn):
                with pytest.raises(RequestError, match="at most 8 rows, got 9"):
                    call(rows(9))
                with pytest.raises(RequestError, match="at most 4096 bytes"):
                    call({"user": 1, "price": 1.0, "note": "x" * 5_000})
            assert of.send(rows(1)) == 9


def test_new_versions_are_followed_and_a_signal_ends_it_with_all_answered(trained, tmp_path):
    """Streams and connections that clients hold open do not keep it."""
    directory = copied(trained, tmp_path)
    log = log_of(directory)
    log.tag("production", 1)
    with Serving(directory, "--tag", "production", "--name", "clicks", "--drain", "5") as server:
        server.wait_for("clicks is ready: version 1")
        of = client("grpc", server)
        assert infer("grpc", of, 1, model="clicks")[0] == 1
        log.tag("production", 2)
        while infer("grpc", of, 1, model="clicks")[0] != 2:
            pass
        writer, reader = fl.connect(server.flight).do_exchange(
            fl.FlightDescriptor.for_command(b'{"verb": "predict"}')
        )
        writer.begin(rows(1).schema)
        writer.write_batch(rows(1))
        assert reader.read_chunk().data.num_rows == 1
        url, port = server.rest.removeprefix("http://").split(":")
        with socket.create_connection((url, int(port))) as held:
            held.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert held.recv(100)
            code, said = server.stop(signal.SIGTERM)
    assert code == 0, said
    assert said.splitlines()[-1] == "stopped; all requests that were taken were answered"
    assert "Traceback" not in said


def test_a_model_that_is_trained_later_gets_ready(tmp_path):
    with Serving(tmp_path / "model") as server:
        server.wait_for("model is not ready: no version is loaded yet")
        assert status(f"{server.rest}/v2/health/live") == 200
        assert status(f"{server.rest}/v2/health/ready") == 503
        train(tmp_path)
        server.wait_for("model is ready: version 1")
        assert status(f"{server.rest}/v2/health/ready") == 200
        assert infer("http", client("http", server), 3)[0] == 1
        code, said = server.stop(signal.SIGINT)
    assert code == 0, said


# ------------------------------------------------------------------------------------- what is refused


def test_a_port_in_use_is_told_in_a_line(onstream, trained):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = onstream.refused("serve", trained, "--rest-port", port, "--grpc-port", 0, "--flight-port", 0)
    assert f"cannot serve REST at 127.0.0.1:{port}" in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["DIR", "--host", "0.0.0.0"], "refusing to listen on '0.0.0.0'"),
        (["DIR", "DIR"], "two models are called 'model'; name them, as in model2="),
        (["DIR", "DIR", "--name", "x"], "--name is for one model"),
        (["=DIR"], "a model is a directory, or NAME=DIR"),
        (["DIR", "--canary", "new"], "a share is TAG=SHARE, such as candidate=0.1"),
        (["DIR", "--shadow", "new=2"], "must be above 0 and at most 1"),
        (["DIR", "--token-file", "nowhere"], "the tokens of 'nowhere' cannot be read"),
        (["DIR", "--key", "nowhere"], "TLS needs both a certificate and its key"),
        (["DIR", "--log", "examples"], "--log takes NAME=FILE, each name once"),
        (["a=DIR", "b=DIR", "--record", "x"], "--record keeps the predictions of one model"),
        (["DIR", "--rest-port", "-1", "--grpc-port", "-1", "--flight-port", "-1"], "all ports are off"),
        (["DIR", "--drain", "-1"], "drain_s must be a time"),
    ],
)
def test_options_that_make_no_sense_are_refused(onstream, trained, arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert reason in onstream.refused("serve", *(str(a).replace("DIR", str(trained)) for a in arguments))


def test_a_file_of_tokens_needs_a_token(onstream, trained, tmp_path):
    (tmp_path / "tokens").write_text("\n \n")
    assert "holds no token" in onstream.refused("serve", trained, "--token-file", tmp_path / "tokens")


def test_tokens_and_the_age_that_a_version_may_have_are_kept_to(trained, tmp_path):
    (tmp_path / "tokens").write_text("one\n\ntwo\n")
    guarded = ["--token-file", tmp_path / "tokens", "--host", "0.0.0.0", "--max-staleness", "0.001"]
    with Serving(f"clicks={trained}", *guarded) as server:
        assert "may be at most 0.001 s old" in server.wait_for("clicks is not ready: version 2 was cut")
        server.rest = server.rest.replace("0.0.0.0", "127.0.0.1")
        of = client("http", server)
        assert not of.is_server_ready()
        assert infer("http", of, 1, model="clicks", headers={"Authorization": "Bearer two"})[0] == 2
        with pytest.raises(InferenceServerException, match="a valid bearer token is needed"):
            infer("http", of, 1, model="clicks", headers={"Authorization": "Bearer three"})

"""Tokens and TLS on both wires."""

import subprocess
from pathlib import Path

import grpc
import pytest
from tritonclient.utils import InferenceServerException

from onstream.serving.access import Access
from onstream.serving.oip.messages import HEALTH, message

from .clients import FORMS, Client, status
from .requests import columns, inputs
from .servers import rest_server, rpc_server

TOKENS = ("one", "two")


@pytest.fixture(scope="module")
def guarded(served):
    """Return the address of each wire, on servers that ask for a token."""
    access = Access(tokens=TOKENS)
    with rest_server({"ads": served}, access) as rest, rpc_server({"ads": served}, access) as rpc:
        yield {"http": rest, "grpc": rpc}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    pem, key = folder / "server.pem", folder / "server.key"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [*words.split(), "-addext", names, "-keyout", key, "-out", pem]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


@pytest.fixture(scope="module")
def secure(served, certificate):
    """Return the address of each wire, on servers that speak TLS."""
    access = Access(certificate=certificate[0], key=certificate[1])
    with rest_server({"ads": served}, access) as rest, rpc_server({"ads": served}, access) as rpc:
        yield {"http": rest, "grpc": rpc}


@pytest.mark.parametrize("form", FORMS)
def test_all_but_the_health_of_the_server_asks_for_a_token(guarded, model, form):
    client = Client(form, guarded[form[:4]].url)
    given = inputs(client.module, columns(2))
    for token in TOKENS:
        headers = {"authorization": f"Bearer {token}"}
        assert client.infer("ads", given, headers=headers).as_numpy("rating").shape == (2,)
        assert client.is_model_ready("ads", headers=headers)
        assert client.get_server_metadata(headers=headers)
    assert client.is_server_live()
    assert client.is_server_ready()
    for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "one"}):
        for call, args in (
            (client.infer, ("ads", given)),
            (client.infer, ("unknown", given)),
            (client.get_server_metadata, ()),
            (client.get_model_metadata, ("ads",)),
        ):
            with pytest.raises(InferenceServerException, match="a valid bearer token is needed") as caught:
                call(*args, headers=headers)
            assert status(caught.value) == "UNAUTHENTICATED"
    assert len(model.batches) == len(TOKENS)


def test_why_a_server_is_not_ready_is_told_only_to_those_who_may_ask(guarded, model):
    from .test_oip_rest import ask

    model.reason = "version 2 is 9 s old"
    assert "models" not in ask(guarded["http"], "/v2/health/ready")[1]
    said = ask(guarded["http"], "/v2/health/ready", Authorization="Bearer two")[1]
    assert said["models"] == {"ads": "version 2 is 9 s old"}


@pytest.mark.parametrize("form", FORMS)
def test_clients_that_know_the_certificate_are_answered_over_tls(secure, model, certificate, form):
    port = secure[form[:4]].port
    pem = str(certificate[0])
    if form == "http":
        import gevent.ssl

        context = {"ssl_options": {"ca_certs": pem, "cert_reqs": gevent.ssl.CERT_REQUIRED}}
        client = Client(form, f"localhost:{port}", ssl=True, **context)
    elif form == "http.aio":
        import ssl

        client = Client(
            form, f"localhost:{port}", ssl=True, ssl_context=ssl.create_default_context(cafile=pem)
        )
    else:
        client = Client(form, f"localhost:{port}", ssl=True, root_certificates=pem)
    assert client.is_server_live()
    assert client.infer("ads", inputs(client.module, columns(2))).as_numpy("rating").shape == (2,)


def test_the_health_check_of_grpc_follows_the_models(guarded, model):
    def check(service: str) -> int:
        method = channel.unary_unary(f"/{HEALTH}.Health/Check")
        request = message(HEALTH, "HealthCheckRequest")(service=service)
        return message(HEALTH, "HealthCheckResponse").FromString(method(request.SerializeToString())).status

    with grpc.insecure_channel(guarded["grpc"].url) as channel:
        assert check("") == check("inference.GRPCInferenceService") == 1
        model.reason = "stale"
        assert check("") == 2
        with pytest.raises(grpc.RpcError) as caught:
            check("other")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND

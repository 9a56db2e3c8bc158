"""Whatever is sent, both wires answer with a status that blames the request, and go on answering."""

import contextlib
import copy
import http.client
import json
import socket
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onstream.serving.oip.limits import Limits

from .requests import body, columns
from .servers import Address, rest_server, rpc_server
from .test_oip_rest import INFER, packed
from .test_oip_rpc import INFER as INFER_RPC
from .test_oip_rpc import request

# Small enough for examples to run into them.
LIMITS = Limits(max_rows=6, max_inputs=8, max_body_bytes=20_000, timeout_s=20.0)

quick = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
deep = settings(quick, max_examples=5_000)


@pytest.fixture(scope="module")
def fuzzed(served):
    with rest_server({"ads": served}, limits=LIMITS) as address:
        yield address
        assert {call[2] for call in address.seen.calls} >= {"ok", "invalid"}


@pytest.fixture(scope="module")
def fuzzed_rpc(served):
    with rpc_server({"ads": served}, limits=LIMITS) as address:
        yield address
        assert {call[2] for call in address.seen.calls} >= {"ok", "invalid"}


_TEXTS = st.text(max_size=5) | st.sampled_from(
    [
        "user",
        "seen",
        "price",
        "image",
        "hour",
        "click",
        "BYTES",
        "INT64",
        "INT8",
        "UINT64",
        "FP32",
        "FP64",
        "FP16",
        "BOOL",
    ]
)
_NUMBERS = (
    st.integers(-2, 9)
    | st.sampled_from(
        [2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 1e39, 1e308, float("nan"), float("inf")]
    )
    | st.floats()
)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(
                ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "missing", "timeout"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def paths(value: Any, at: tuple = ()) -> list[tuple]:
    """Return the way to every part of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, one in inner for path in paths(one, (*at, key)))]


def replaced(value: Any, path: tuple, by: Any) -> Any:
    if not path:
        return by
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = by
    return value


@st.composite
def json_requests(draw: Any) -> Any:
    """Draw requests that differ from a good one in up to three places."""
    good = body(columns(2), id="a", outputs=[{"name": "click"}], parameters={"binary_data_output": False})
    asked = copy.deepcopy(good)
    for _ in range(draw(st.integers(0, 3))):
        asked = replaced(asked, draw(st.sampled_from(paths(asked))), draw(_VALUES))
    return asked


def binary_request() -> tuple[bytes, str]:
    """Return a good binary request, and the length of its JSON."""
    raw = request(columns(2), typed=False)
    asked = body(columns(2))
    for one, part in zip(asked["inputs"], raw.raw_input_contents, strict=True):
        del one["data"]
        one["parameters"] = {"binary_data_size": len(part)}
    return packed(asked, *raw.raw_input_contents)


@st.composite
def mutations(draw: Any, good: bytes) -> bytes:
    """Draw bytes that differ from good ones: some replaced, inserted or removed, or cut short."""
    made = bytearray(good)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(made) - 1)))
        wide = draw(st.integers(0, 8))
        made[at : at + wide] = draw(st.binary(max_size=8) | st.sampled_from([b"", b"\xff" * 4, b"\0" * 4]))
    return bytes(made)


def send(address: Address, content: bytes, headers: dict[str, str]) -> int:
    """Return the status of an answer, whose body must be of the protocol."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)) as connection:
        connection.request("POST", INFER, content, headers)
        answer = connection.getresponse()
        text = answer.read()
        head = int(answer.headers.get("Inference-Header-Content-Length", len(text)))
        said = json.loads(text[:head])
        assert said["outputs"] if answer.status == 200 else said["error"]
        return answer.status


def check_rest(address: Address, content: bytes, **headers: str) -> None:
    assert send(address, content, headers) in (200, 400, 413, 504)
    good, length = binary_request()
    assert send(address, good, {"Inference-Header-Content-Length": length}) == 200


def check_json(address: Address, asked: Any) -> None:
    check_rest(address, json.dumps(asked).encode())


def check_binary(address: Address, content: bytes, length: str) -> None:
    check_rest(address, content, **{"Inference-Header-Content-Length": length})


def check_http(address: Address, content: bytes) -> None:
    """Check what does not even need to be HTTP."""
    before = len(address.seen.calls)
    with (
        socket.create_connection(("127.0.0.1", address.port), 30) as client,
        contextlib.suppress(ConnectionError),
    ):
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        assert b" 500 " not in client.makefile("rb").read().split(b"\r\n")[0]
    good, length = binary_request()
    assert send(address, good, {"Inference-Header-Content-Length": length}) == 200
    assert all(call[2] != "internal" for call in address.seen.calls[before:])


def check_rpc(address: Address, content: bytes) -> None:
    with grpc.insecure_channel(address.url) as channel:
        infer = channel.unary_unary(INFER_RPC)
        try:
            infer(content, timeout=30)
        except grpc.RpcError as error:
            assert error.code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            )
            assert len(error.details()) < 1000
        assert infer(request(columns(2)).SerializeToString(), timeout=30)


@st.composite
def rpc_requests(draw: Any) -> bytes:
    """Draw messages whose parts differ from those of a good one."""
    asked = request(columns(2), typed=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        one = draw(st.sampled_from(list(asked.inputs)))
        match draw(st.integers(0, 8)):
            case 0:
                one.name = draw(_TEXTS.filter(_is_unicode))
            case 1:
                one.datatype = draw(_TEXTS.filter(_is_unicode))
            case 2:
                one.shape[:] = draw(
                    st.lists(st.integers(-1, 4) | st.integers(-(2**63), 2**63 - 1), max_size=4)
                )
            case 3:
                one.contents.int64_contents.extend(
                    draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4))
                )
            case 4:
                one.contents.bytes_contents[:] = draw(st.lists(st.binary(max_size=5), max_size=4))
            case 5:
                one.contents.fp32_contents[:] = draw(st.lists(st.floats(width=32), max_size=4))
            case 6:
                one.parameters["missing"].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
            case 7:
                asked.raw_input_contents[:] = draw(st.lists(st.binary(max_size=50), max_size=6))
            case 8:
                asked.outputs.add(name=draw(st.sampled_from(["click", "kind", "x"])))
    return bytes(asked.SerializeToString())


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


_BINARY, _LENGTH = binary_request()
_WHOLE = (
    f"POST {INFER} HTTP/1.1\r\nHost: a\r\nInference-Header-Content-Length: {_LENGTH}\r\n"
    f"Content-Encoding: identity\r\nContent-Length: {len(_BINARY)}\r\n\r\n"
).encode() + _BINARY
_LENGTHS = st.just(_LENGTH) | st.integers(-1, 2 * len(_BINARY)).map(str) | st.sampled_from(["", "x", "1e3"])
_MESSAGES = mutations(request(columns(2)).SerializeToString()) | mutations(
    request(columns(2), typed=False).SerializeToString()
)


@quick
@given(json_requests())
def test_json_that_is_nearly_a_request(fuzzed, asked):
    check_json(fuzzed, asked)


@quick
@given(mutations(_BINARY), _LENGTHS)
def test_bytes_that_are_nearly_a_binary_request(fuzzed, content, length):
    check_binary(fuzzed, content, length)


@settings(quick, max_examples=60)
@given(mutations(_WHOLE))
def test_bytes_that_are_nearly_http(fuzzed, content):
    check_http(fuzzed, content)


@quick
@given(rpc_requests() | _MESSAGES)
def test_bytes_that_are_nearly_a_message(fuzzed_rpc, content):
    check_rpc(fuzzed_rpc, content)


@pytest.mark.long
@pytest.mark.timeout(1800)
@deep
@given(json_requests(), mutations(_BINARY), _LENGTHS, mutations(_WHOLE))
def test_rest_goes_on_answering_whatever_is_sent(fuzzed, asked, content, length, whole):
    check_json(fuzzed, asked)
    check_binary(fuzzed, content, length)
    check_http(fuzzed, whole)


@pytest.mark.long
@pytest.mark.timeout(1800)
@deep
@given(rpc_requests(), _MESSAGES)
def test_grpc_goes_on_answering_whatever_is_sent(fuzzed_rpc, asked, content):
    check_rpc(fuzzed_rpc, asked)
    check_rpc(fuzzed_rpc, content)

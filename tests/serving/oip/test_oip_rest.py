"""REST in its details: JSON, binary parts, sizes, encodings, statuses, as any HTTP client sees them."""

import gzip
import http.client
import json
import socket
import zlib
from typing import Any

import numpy as np
import pytest

from onstream.contracts import Label
from onstream.serving.model import Answer
from onstream.serving.oip.bodies import Form, render_answer
from onstream.serving.oip.calls import Ask
from onstream.serving.oip.limits import Limits

from .linear import FakeModel
from .requests import body, columns, expected
from .servers import Address, rest_server

INFER = "/v2/models/ads/infer"


def ask(
    address: Address, path: str = INFER, content: Any = None, method: str | None = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Return status, parsed body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=30)
    try:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode() if content else None
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("POST" if content else "GET"), path, raw, named)
        answer = connection.getresponse()
        text = answer.read()
        return (
            answer.status,
            json.loads(text) if text else None,
            {k.lower(): v for k, v in answer.getheaders()},
        )
    finally:
        connection.close()


def data(said: dict[str, Any], name: str) -> np.ndarray:
    (found,) = [one for one in said["outputs"] if one["name"] == name]
    return np.array(found["data"], np.float32).reshape(found["shape"])


def packed(request: dict[str, Any], *parts: bytes) -> tuple[bytes, str]:
    """Return a binary body, and the length of its JSON."""
    head = json.dumps(request).encode()
    return b"".join([head, *parts]), str(len(head))


def test_json_is_answered_in_json_with_all_outputs(rest, model):
    given = columns(4)
    code, said, headers = ask(rest, content=body(given, id="é1"))
    assert (code, said["id"], said["model_name"], said["model_version"]) == (200, "é1", "ads", "2")
    assert headers["content-type"] == "application/json"
    assert [(one["name"], one["datatype"], one["shape"]) for one in said["outputs"]] == [
        ("click", "FP32", [4]),
        ("rating", "FP32", [4]),
        ("kind", "FP32", [4, 3]),
    ]
    np.testing.assert_array_equal(data(said, "rating"), expected(given))


def test_flat_data_nulls_and_unicode_are_understood(rest, model):
    request = body(columns(4))
    request["inputs"][3]["data"] = list(np.ravel(request["inputs"][3]["data"]))
    request["inputs"][0]["data"] = ["ß\U0001f600", None, "a", "9007199254740993"]
    assert request["inputs"][2]["data"][2] is None
    assert ask(rest, content=request)[0] == 200
    (rows,) = model.batches
    assert rows["user"].to_pylist() == ["ß\U0001f600", None, "a", "9007199254740993"]
    assert np.isnan(rows["price"].to_pylist()[2])


def test_ids_that_are_numbers_beyond_the_precision_of_floats_are_exact(rest, model):
    request = body(columns(2))
    request["inputs"][0] |= {"datatype": "UINT64", "data": [2**53 + 1, 2**64 - 1]}
    assert ask(rest, content=request)[0] == 200
    assert model.batches[0]["user"].to_pylist() == [2**53 + 1, 2**64 - 1]


def test_nan_is_a_missing_number(rest, model):
    request = json.dumps(body(columns(2))).replace("0.5", "NaN").encode()
    assert ask(rest, content=request)[0] == 200
    assert np.isnan(model.batches[0]["price"].to_pylist()[0])


def test_a_version_can_be_part_of_the_path(rest, model):
    code, said, _ = ask(rest, "/v2/models/ads/versions/1/infer", body(columns(2)))
    assert (code, said["model_version"]) == (200, "1")
    np.testing.assert_array_equal(data(said, "rating"), expected(columns(2), version=1))
    assert ask(rest, "/v2/models/ads/versions/1")[1]["versions"] == ["1"]
    assert ask(rest, "/v2/models/ads/versions/1/ready")[:2] == (200, {"name": "ads", "ready": True})
    assert ask(rest, "/v2/models/ads/versions/7/ready")[0] == 503
    assert ask(rest, "/v2/models/ads/versions/7/infer", body(columns(2)))[0] == 404


def test_each_input_and_output_may_be_binary_or_json(rest, model):
    given = columns(2)
    request = body(
        given, outputs=[{"name": "rating", "parameters": {"binary_data": True}}, {"name": "click"}]
    )
    for one in request["inputs"]:
        if one["name"] in ("price", "seen"):
            del one["data"]
            one["parameters"] = {"binary_data_size": given[one["name"]].nbytes}
    content, length = packed(request, given["seen"].tobytes(), given["price"].tobytes())
    connection = http.client.HTTPConnection("127.0.0.1", rest.port, timeout=30)
    connection.request("POST", INFER, content, {"Inference-Header-Content-Length": length})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    head = int(answer.headers["Inference-Header-Content-Length"])
    assert answer.headers["Content-Type"] == "application/octet-stream"
    said = json.loads(text[:head])
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 8}
    np.testing.assert_array_equal(np.frombuffer(text[head:], np.float32), expected(given))
    np.testing.assert_array_equal(data(said, "click"), np.tanh(expected(given)))


def test_predictions_that_are_not_finite_are_null_in_json():
    values = np.array([0.5, np.nan, np.inf], np.float32)
    answer = Answer({"y": values}, 1)
    form = Form(False, {})
    parts, _ = render_answer("m", answer, [Label("y", "real")], 3, Ask("", [], [], None), form)
    assert json.loads(parts[0])["outputs"][0]["data"] == [0.5, None, None]


def broken(change: Any) -> dict[str, Any]:
    """Return a request that was good before `change`."""
    request = body(columns(2))
    change(request)
    return request


@pytest.mark.parametrize(
    ("request_body", "says"),
    [
        (b"{", "the body is no JSON"),
        (b"\xff\xfe", "the body is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "the body is no JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "'inputs' must be a list of objects"),
        (broken(lambda r: r.update(inputs=[1])), "'inputs' must be a list of objects"),
        (broken(lambda r: r.update(inputs=[{}] * 5000)), "may have at most 4096 entries, got 5000"),
        (broken(lambda r: r.update(outputs={})), "'outputs' must be a list of objects"),
        (broken(lambda r: r.update(outputs=[{"name": 1}])), "'name' must be a text, got 1"),
        (broken(lambda r: r.update(outputs=[{"name": "click"}] * 2)), "asked for twice"),
        (broken(lambda r: r.update(id=1)), "'id' must be a text"),
        (broken(lambda r: r.update(parameters=[])), "'parameters' must be an object"),
        (broken(lambda r: r.update(parameters={"timeout": -1})), "'timeout' must be a whole number"),
        (broken(lambda r: r.update(parameters={"timeout": "1"})), "'timeout' must be a whole number"),
        (broken(lambda r: r.update(parameters={"binary_data_output": 1})), "must be true or false"),
        (broken(lambda r: r.update(parameters={"sequence_id": 7})), "'sequence_id' is not supported"),
        (broken(lambda r: r["inputs"][0].update(datatype=None)), "'user': 'datatype' must be a text"),
        (broken(lambda r: r["inputs"][0].update(shape=[True])), "'shape' must be a list of whole numbers"),
        (
            broken(lambda r: r["inputs"][0].update(shape="x" * 9999)),
            "'shape' must be a list of whole numbers",
        ),
        (broken(lambda r: r["inputs"][0].update(data={})), "'data' must be a list"),
        (broken(lambda r: r["inputs"][0].update(name="\ud800")), r"no input '\ud800'"),
        (broken(lambda r: r["inputs"][0].update(parameters={"missing": 1})), "parameter 'missing' must be"),
        (broken(lambda r: r["inputs"][2].update(parameters={"missing": 1})), "parameter 'missing' must be"),
        (broken(lambda r: r["inputs"][0].update(parameters={"binary_data_size": 1})), "has both 'data' and"),
        (
            broken(lambda r: r["inputs"][0].update(parameters={"shared_memory_region": "a"})),
            "'shared_memory_region' is not supported",
        ),
        (
            broken(lambda r: r.update(outputs=[{"name": "kind", "parameters": {"classification": 2}}])),
            "'classification' is not supported",
        ),
    ],
)
def test_a_body_that_is_not_a_request_is_refused_with_the_reason(rest, model, request_body, says):
    code, said, _ = ask(rest, content=request_body)
    assert (code, list(said)) == (400, ["error"])
    assert says in said["error"]
    assert len(said["error"]) < 400
    assert model.batches == []


@pytest.mark.parametrize("length", ["0", "-1", "x", "99999999999", "1e3", "٣"])
def test_a_wrong_length_of_the_json_is_refused(rest, model, length):
    code, said, _ = ask(
        rest, content=body(columns(2)), Inference_Header_Content_Length=length.encode().decode("latin-1")
    )
    assert code == 400
    assert "Inference-Header-Content-Length must be" in said["error"]


@pytest.mark.parametrize(
    ("size", "parts", "says"),
    [
        (9, b"12345678", "must be from 0 to the 8 bytes that are left of the body, got 9"),
        (-1, b"", "'binary_data_size' must be from 0"),
        (2**70, b"", "'binary_data_size' must be from 0"),
        (8, b"123456789", "the inputs take 8 of the 9 bytes that follow the JSON"),
        (4, b"1234", "needs 8 bytes"),
    ],
)
def test_binary_parts_must_be_as_long_as_they_say(rest, model, size, parts, says):
    request = body(columns(2))
    price = request["inputs"][2]
    del price["data"]
    price["parameters"] = {"binary_data_size": size}
    content, length = packed(request, parts)
    code, said, _ = ask(rest, content=content, Inference_Header_Content_Length=length)
    assert code == 400
    assert says in said["error"]


@pytest.fixture(scope="module")
def small(served):
    with rest_server({"ads": served}, limits=Limits(max_body_bytes=10_000)) as address:
        yield address


@pytest.fixture(scope="module")
def hasty(served):
    with rest_server({"ads": served}, limits=Limits(timeout_s=0.2)) as address:
        yield address


def test_a_body_beyond_the_limit_is_refused_before_it_is_sent(small, model):
    with socket.create_connection(("127.0.0.1", small.port), 30) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"larger than the limit of 10000 bytes" in answer


def test_a_streamed_body_is_read_no_further_than_the_limit(small, model):
    with socket.create_connection(("127.0.0.1", small.port), 30) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"2711\r\n" + b" " * 10_001)
        # The chunk is never ended: whoever waited for its end would not answer.
        answer = client.makefile("rb").read()
    assert b" 413 " in answer.split(b"\r\n")[0]


def test_a_body_that_does_not_arrive_is_given_up(hasty, model):
    with socket.create_connection(("127.0.0.1", hasty.port), 30) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1".encode())
        answer = client.makefile("rb").read()
    assert b" 408 " in answer.split(b"\r\n")[0]


def test_a_client_that_goes_away_while_sending_is_noted(small, model):
    before = len(small.seen.calls)
    with socket.create_connection(("127.0.0.1", small.port), 30) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1".encode())
    assert small.seen.wait(before, "cancelled")[:2] == ("rest", "ads")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_small_body_that_inflates_beyond_the_limit_is_refused(small, model, pack):
    bomb = pack(b" " * 5_000_000)
    assert len(bomb) < 10_000
    assert ask(small, content=bomb, Content_Encoding="gzip")[0] == 413


@pytest.mark.parametrize(
    ("encoding", "damage", "says"),
    [
        ("gzip", lambda b: b[:-9], "cut short"),
        ("gzip", lambda b: b + b"x", "followed by more"),
        ("deflate", lambda b: b"x" + b, "damaged"),
        ("br", lambda b: b, "must be gzip or deflate, got 'br'"),
    ],
)
def test_a_damaged_or_unknown_encoding_is_refused(rest, model, encoding, damage, says):
    packed_body = damage(gzip.compress(json.dumps(body(columns(2))).encode()))
    code, said, _ = ask(rest, content=packed_body, Content_Encoding=encoding)
    assert code == 400
    assert says in said["error"]


def test_paths_and_methods_that_are_not_there_are_told_so(rest, model):
    for path in ("/", "/v1", "/v2/models", "/v2/models/ads/other", "/v2/health", "/v2/models/ads/versions"):
        code, said, _ = ask(rest, path)
        assert (code, list(said)) == (404, ["error"])
    code, _, headers = ask(rest, INFER)
    assert (code, headers["allow"]) == (405, "POST")
    code, _, headers = ask(rest, "/v2", content=b"{}")
    assert (code, headers["allow"]) == (405, "GET")
    assert ask(rest, "/v2/health/live", method="HEAD")[:2] == (200, None)
    assert ask(rest, "/v2/")[0] == 200


def test_not_ready_says_why_and_when_to_ask_again(rest, model):
    model.reason = "version 2 is 9 s old"
    code, said, headers = ask(rest, "/v2/health/ready")
    assert (code, said["models"], headers["retry-after"]) == (503, {"ads": "version 2 is 9 s old"}, "1")
    code, said, _ = ask(rest, "/v2/models/ads/ready")
    assert (code, said["ready"]) == (503, False)
    assert said["error"] == "model 'ads' is not ready: version 2 is 9 s old"
    assert ask(rest, "/v2/health/live")[:2] == (200, {"live": True})


def test_the_timeout_that_envoy_tells_reaches_the_model(rest, model):
    header = {"X_Envoy_Expected_Rq_Timeout_Ms": "1500"}
    assert ask(rest, content=body(columns(1)), **header)[0] == 200
    assert ask(rest, content=body(columns(1), parameters={"timeout": 1_000_000}), **header)[0] == 200
    assert ask(rest, content=body(columns(1), parameters={"timeout": 0}))[0] == 200
    assert model.timeouts == [1.5, 1.0, 30.0]


def test_a_busy_model_says_when_to_ask_again_and_a_late_one_that_it_is_late(hasty, model):
    model.loaded = ()
    code, _, headers = ask(hasty, content=body(columns(1)))
    assert (code, headers["retry-after"]) == (503, "1")
    model.loaded = (2, 1)
    model.open.clear()
    assert ask(hasty, content=body(columns(1)))[0] == 504


def test_what_fails_within_is_told_to_nobody_but_the_log(rest, model, caplog):
    model.broken = KeyError("a secret")
    code, said, _ = ask(rest, content=body(columns(1)))
    assert (code, said) == (500, {"error": "internal error; the server's log says more"})
    assert "a secret" in caplog.text


def test_every_request_is_observed_once_with_its_model_status_and_rows(served, model):
    with rest_server({"ads": served}) as address:
        ask(address, "/v2/health/live")
        ask(address, content=body(columns(3)))
        ask(address, content=b"{")
        ask(address, "/v2/models/made-up/infer", body(columns(1)))
        ask(address, "/nowhere")
        seen = list(address.seen.calls)
    assert [(wire, name, status, rows) for wire, name, status, _, rows in seen] == [
        ("rest", "", "ok", 0),
        ("rest", "ads", "ok", 3),
        ("rest", "ads", "invalid", 0),
        ("rest", "", "not_found", 0),
        ("rest", "", "not_found", 0),
    ]
    assert all(seconds > 0 for _, _, _, seconds, _ in seen)


def test_an_observer_that_fails_changes_no_answer(served, model, caplog):
    with rest_server({"ads": served}) as address:
        address.seen.calls = None
        assert ask(address, content=body(columns(1)))[0] == 200
    assert "the observer of requests failed" in caplog.text


def test_a_server_without_models_is_ready():
    with rest_server({}) as address:
        assert ask(address, "/v2/health/ready")[:2] == (200, {"ready": True})


def test_a_model_that_gives_other_than_it_says_is_an_error_of_the_server(model, caplog):
    short = FakeModel("short")
    short._run = lambda future, *_: future.set_result(Answer({"click": np.zeros(1, np.float32)}, 2))
    try:
        with rest_server({"short": short}) as address:
            request = body(columns(2), outputs=[{"name": "click"}])
            assert ask(address, "/v2/models/short/infer", request)[0] == 500
    finally:
        short.close()

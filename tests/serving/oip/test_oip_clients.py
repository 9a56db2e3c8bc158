"""What the protocol's standard clients, all four, get from both wires."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from onstream.errors import RequestError, UnavailableError

from .clients import FORMS, Client, status
from .linear import FakeModel
from .requests import SEEN, columns, expected, inputs


@pytest.fixture(params=FORMS)
def client(request, rest, rpc) -> Client:
    address = rest if request.param.startswith("http") else rpc
    return Client(request.param, address.url)


def refused(call, *args, **kwargs) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call(*args, **kwargs)
    return status(caught.value), caught.value.message()


def test_health_says_what_the_models_say(client, model):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ads")
    assert client.is_model_ready("ads", "1")
    assert not client.is_model_ready("ads", "3")
    model.reason = "stale"
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert not client.is_model_ready("ads")


def test_metadata_names_inputs_outputs_and_versions(client, model):
    server, known = client.get_server_metadata(), client.get_model_metadata("ads")
    first = client.get_model_metadata("ads", "1")
    if not client.http:
        assert (server.name, list(known.versions), list(first.versions)) == ("onstream", ["2", "1"], ["1"])
        tensors = {one.name: (one.datatype, list(one.shape)) for one in [*known.inputs, *known.outputs]}
    else:
        assert (server["name"], known["versions"], first["versions"]) == ("onstream", ["2", "1"], ["1"])
        assert server["extensions"] == ["binary_tensor_data"]
        tensors = {one["name"]: (one["datatype"], one["shape"]) for one in known["inputs"] + known["outputs"]}
    assert tensors == {
        "user": ("BYTES", [-1]),
        "seen": ("BYTES", [-1, -1]),
        "price": ("FP32", [-1]),
        "image": ("FP32", [-1, 2, 3]),
        "hour": ("INT64", [-1]),
        "click": ("FP32", [-1]),
        "rating": ("FP32", [-1]),
        "kind": ("FP32", [-1, 3]),
    }
    assert refused(client.get_model_metadata, "other") == ("NOT_FOUND", "there is no model 'other'")
    assert refused(client.get_model_metadata, "ads", "9")[0] == "NOT_FOUND"
    model.loaded = ()
    assert refused(client.get_model_metadata, "ads")[0] == "UNAVAILABLE"


def test_predictions_are_those_of_the_rows(client, model):
    given = columns(4)
    answer = client.infer("ads", inputs(client.module, given), request_id="7f")
    np.testing.assert_array_equal(answer.as_numpy("rating"), expected(given))
    assert answer.as_numpy("kind").shape == (4, 3)
    np.testing.assert_array_equal(answer.as_numpy("kind")[:, 1], np.abs(expected(given) - 1))
    np.testing.assert_array_equal(answer.as_numpy("click"), np.tanh(expected(given)))
    said = answer.get_response()
    if not client.http:
        assert (said.id, said.model_name, said.model_version) == ("7f", "ads", "2")
    else:
        assert (said["id"], said["model_name"], said["model_version"]) == ("7f", "ads", "2")


def test_a_version_and_some_outputs_can_be_asked_for(client, model):
    given = columns(2)
    outputs = [client.output("kind"), client.output("rating", binary_data=False)]
    answer = client.infer("ads", inputs(client.module, given), model_version="1", outputs=outputs)
    np.testing.assert_array_equal(answer.as_numpy("rating"), expected(given, version=1))
    assert answer.as_numpy("kind").shape == (2, 3)
    assert answer.as_numpy("click") is None
    said = refused(client.infer, "ads", inputs(client.module, given), outputs=[client.output("clicks")])
    assert said == (
        "INVALID_ARGUMENT",
        "there is no output 'clicks'; the model gives 'click', 'rating', 'kind'",
    )


@pytest.mark.parametrize(
    "seen",
    [
        SEEN.astype(np.int8),
        SEEN.astype(np.uint64),
        np.array([["1", "2"], ["3", "4"], ["5", "6"], ["7", "8"]], object),
    ],
    ids=["INT8", "UINT64", "BYTES"],
)
def test_ids_may_be_texts_or_integers_of_any_width(client, model, seen):
    answer = client.infer("ads", inputs(client.module, columns(4) | {"seen": seen}))
    np.testing.assert_array_equal(answer.as_numpy("rating"), expected(columns(4)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, bool])
def test_numbers_may_be_of_any_type(client, model, dtype):
    given = columns(2) | {"price": np.array([0, 1], dtype)}
    answer = client.infer("ads", inputs(client.module, given))
    as_floats = given | {"price": np.array([0, 1], np.float32)}
    np.testing.assert_array_equal(answer.as_numpy("rating"), expected(as_floats))


def test_an_integer_can_stand_for_a_missing_element_of_a_list(client, model):
    given = columns(2) | {"seen": np.array([[5, -1], [-1, -1]])}
    client.infer("ads", inputs(client.module, given), parameters={"missing": -1})
    (rows,) = model.batches
    assert rows["seen"].to_pylist() == [[5, None], [None, None]]


def test_each_error_has_its_status_and_tells_what_is_wrong(client, model):
    good = inputs(client.module, columns(2))
    asked = refused(client.infer, "ads", good[1:])
    assert asked == ("INVALID_ARGUMENT", "1 inputs are missing: 'user'")
    price = columns(2) | {"price": np.array([0, np.inf], np.float32)}
    said = refused(client.infer, "ads", inputs(client.module, price))
    assert said == ("INVALID_ARGUMENT", "column 'price', row 1: must be finite, got inf")
    assert refused(client.infer, "other", good) == ("NOT_FOUND", "there is no model 'other'")
    assert refused(client.infer, "ads", good, model_version="9")[0] == "NOT_FOUND"
    assert refused(client.infer, "ads", good, model_version="new")[0] == "NOT_FOUND"
    model.broken = UnavailableError("the queue is full")
    assert refused(client.infer, "ads", good) == ("UNAVAILABLE", "the queue is full")
    model.broken = KeyError("a secret")
    assert refused(client.infer, "ads", good) == ("INTERNAL", "internal error; the server's log says more")


def test_a_prediction_that_the_model_gives_up_is_unavailable(client, model):
    model.open.clear()
    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(refused, client.infer, "ads", inputs(client.module, columns(1)))
        assert model.begun.wait(30)
        model.pending[-1].cancel()
        assert pending.result()[0] == "UNAVAILABLE"


def test_a_timeout_of_the_request_reaches_the_model_and_ends_the_wait(client, model):
    model.open.clear()
    said = refused(client.infer, "ads", inputs(client.module, columns(1)), timeout=20_000)
    assert said[0] == "DEADLINE_EXCEEDED"
    assert model.timeouts == [0.02]


def test_the_server_answers_at_its_own_timeout_even_if_the_model_never_does(client, model):
    model.deaf = True
    model.open.clear()
    said = refused(client.infer, "ads", inputs(client.module, columns(1)), timeout=20_000)
    assert said == ("DEADLINE_EXCEEDED", "no prediction within 0.02 s")


def test_concurrent_requests_get_their_own_rows(client, model):
    def ask(at: int) -> None:
        given = columns(1 + at % 5, first=at)
        answer = client.infer("ads", inputs(client.module, given), request_id=str(at))
        np.testing.assert_array_equal(answer.as_numpy("rating"), expected(given))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(40)))


def test_many_requests_over_one_connection_get_their_own_rows(rest, model):
    async def ask_all() -> None:
        async with tritonclient.http.aio.InferenceServerClient(rest.url) as client:
            await asyncio.gather(*[ask(client, at) for at in range(40)])

    async def ask(client, at: int) -> None:
        given = columns(1 + at % 5, first=at)
        answer = await client.infer("ads", inputs(tritonclient.http, given))
        np.testing.assert_array_equal(answer.as_numpy("rating"), expected(given))

    asyncio.run(ask_all())


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("encoding", ["gzip", "deflate", None])
def test_http_bodies_may_be_json_or_binary_and_compressed(rest, model, binary, encoding):
    client = Client("http", rest.url)
    given = columns(4) | {"price": np.array([0, 1, 2, 3], np.float32)}
    answer = client.infer(
        "ads",
        inputs(client.module, given, binary=binary),
        outputs=[client.output("rating", binary_data=binary)],
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )
    np.testing.assert_array_equal(answer.as_numpy("rating"), expected(given))


def test_a_deadline_of_grpc_reaches_the_model(rpc, model):
    client = Client("grpc", rpc.url)
    client.infer("ads", inputs(client.module, columns(1)), client_timeout=20)
    # Less than the server's own; gRPC rounds a deadline up a little on its way.
    assert 0 < model.timeouts[0] < 25
    model.open.clear()
    said = refused(client.infer, "ads", inputs(client.module, columns(1)), client_timeout=0.05)
    assert said[0] == "DEADLINE_EXCEEDED"


def test_a_cancelled_call_of_grpc_cancels_its_prediction(rpc, model):
    before = len(rpc.seen.calls)
    model.open.clear()
    with tritonclient.grpc.InferenceServerClient(rpc.url) as client:
        done = threading.Event()
        call = client.async_infer(
            "ads", inputs(tritonclient.grpc, columns(1)), lambda result, error: done.set()
        )
        assert model.begun.wait(30)
        call.cancel()
        assert model.cancelled.wait(30)
        assert done.wait(30)
    assert rpc.seen.wait(before, "cancelled")[:2] == ("grpc", "ads")


def test_bad_rows_that_the_model_finds_at_once_or_later_are_told_alike(client, model):
    model.broken = RequestError("column 'user', row 0: too long")
    said = refused(client.infer, "ads", inputs(client.module, columns(1)))
    assert said == ("INVALID_ARGUMENT", "column 'user', row 0: too long")


def test_models_that_come_and_go_are_seen_at_once(client, served, rest, rpc):
    other = FakeModel("other")
    try:
        rest.models["other"] = rpc.models["other"] = other
        assert client.is_model_ready("other")
    finally:
        del rest.models["other"], rpc.models["other"]
        other.close()
    assert refused(client.get_model_metadata, "other")[0] == "NOT_FOUND"

"""gRPC in its details: typed contents, damaged messages, parameters."""

from typing import Any

import grpc
import numpy as np
import pytest

from onstream.errors import RequestError
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.messages import INFERENCE, message

from .requests import columns, datatype, expected
from .servers import Address, rpc_server

INFER = "/inference.GRPCInferenceService/ModelInfer"
FIELDS = {
    "BYTES": "bytes_contents",
    "INT64": "int64_contents",
    "INT32": "int_contents",
    "FP32": "fp32_contents",
}


def request(given: dict[str, np.ndarray], *, typed: bool = True) -> Any:
    """Return a request with typed or raw contents."""
    made = message(INFERENCE, "ModelInferRequest")(model_name="ads", id="9")
    for name, column in given.items():
        kind = datatype(column)
        values = column.ravel().tolist()
        if kind == "BYTES":
            values = [value.encode() for value in values]
        one = made.inputs.add(name=name, datatype=kind, shape=column.shape)
        if typed:
            getattr(one.contents, FIELDS[kind]).extend(values)
        elif kind == "BYTES":
            made.raw_input_contents.append(b"".join(len(v).to_bytes(4, "little") + v for v in values))
        else:
            made.raw_input_contents.append(column.tobytes())
    return made


def call(address: Address, content: Any, path: str = INFER) -> Any:
    """Return the response to a message, or to bytes."""
    raw = content if isinstance(content, bytes) else content.SerializeToString()
    with grpc.insecure_channel(address.url) as channel:
        return message(INFERENCE, "ModelInferResponse").FromString(channel.unary_unary(path)(raw, timeout=30))


def refused(address: Address, content: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(address, content)
    return caught.value.code(), caught.value.details()


def test_typed_contents_are_answered_typed_and_raw_ones_raw(rpc, model):
    given = columns(4)
    typed, raw = call(rpc, request(given)), call(rpc, request(given, typed=False))
    assert (typed.id, typed.model_version) == ("9", "2")
    np.testing.assert_array_equal(typed.outputs[1].contents.fp32_contents, expected(given))
    assert not typed.raw_output_contents
    np.testing.assert_array_equal(np.frombuffer(raw.raw_output_contents[1], np.float32), expected(given))
    assert not raw.outputs[1].HasField("contents")
    assert [list(one.shape) for one in raw.outputs] == [list(one.shape) for one in typed.outputs]
    first, second = model.batches
    assert first.schema == second.schema
    # As texts, because NaN differs from itself.
    assert str(first.to_pydict()) == str(second.to_pydict())


def test_parameters_of_inputs_say_what_is_missing(rpc, model):
    asked = request(columns(2))
    asked.inputs[0].parameters["missing"].string_param = "anna"
    asked.inputs[1].parameters["missing"].int64_param = 2
    asked.inputs[1].parameters["unset"].SetInParent()
    call(rpc, asked)
    (rows,) = model.batches
    assert rows["user"].to_pylist() == [None, ""]
    assert rows["seen"].to_pylist() == [[1, None], [3, 4]]


def broken(change: Any, *, typed: bool = True) -> Any:
    asked = request(columns(2), typed=typed)
    change(asked)
    return asked


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (b"\xff\xff\xff", "the message cannot be parsed"),
        (broken(lambda r: r.raw_input_contents.append(b"")), "one entry for each of the 5 inputs, got 1"),
        (broken(lambda r: r.raw_input_contents.extend([b""] * 5)), "'user' has contents, and so has"),
        (broken(lambda r: r.inputs[1].contents.Clear()), "needs 4 values for shape [2, 2], got 0"),
        (broken(lambda r: r.inputs[2].contents.int_contents.append(1)), None),
        (broken(lambda r: setattr(r.inputs[2], "datatype", "FP16")), "'FP16' can only be sent as raw contents"),
        (broken(lambda r: setattr(r.inputs[2], "datatype", "FP64")), "needs 2 values for shape [2], got 0"),
        (broken(lambda r: r.inputs[1].contents.int64_contents.append(1)), "got 5"),
        (broken(lambda r: r.inputs[0].contents.bytes_contents.__setitem__(0, b"\xff")), "not UTF-8"),
        (broken(lambda r: r.inputs[0].parameters["missing"].SetInParent()), None),
        (broken(lambda r: setattr(r.inputs[0].parameters["missing"], "bool_param", True)), "'missing' must be"),
        (broken(lambda r: setattr(r.parameters["timeout"], "string_param", "1")), "'timeout' must be"),
        (broken(lambda r: setattr(r.parameters["sequence_id"], "int64_param", 3)), "'sequence_id' is not"),
        (broken(lambda r: setattr(r.parameters["shared_memory_region"], "string_param", "a")), "not supported"),
        (broken(lambda r: r.inputs.extend([r.inputs[0]] * 5000)), "at most 4096 entries"),
        (broken(lambda r: r.outputs.add(name="no")), "there is no output 'no'"),
        (broken(lambda r: r.raw_input_contents.__setitem__(2, b"123"), typed=False), "needs 8 bytes"),
        (broken(lambda r: r.inputs[2].shape.append(-1), typed=False), "must have shape [rows] or [rows, 1]"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_with_the_reason(rpc, model, asked, says):
    if says is None:
        # A field that the datatype does not read, and a parameter without a value, say nothing.
        assert call(rpc, asked).id == "9"
        return
    code, text = refused(rpc, asked)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert says in text
    assert model.batches == []


def test_a_message_beyond_the_limit_is_refused(served, model):
    with rpc_server({"ads": served}, limits=Limits(max_body_bytes=10_000)) as address:
        assert call(address, request(columns(4))).id == "9"
        assert refused(address, b" " * 10_001)[0] == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_more_rows_than_the_limit_are_refused(served, model):
    with rpc_server({"ads": served}, limits=Limits(max_rows=3)) as address:
        assert call(address, request(columns(3))).id == "9"
        code, text = refused(address, request(columns(4)))
    assert (code, text) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a request must have from 1 to 3 rows, got 4 in input 'user'",
    )


def test_an_error_with_a_long_text_keeps_its_status(rpc, model):
    model.broken = RequestError("x" * 100_000)
    code, text = refused(rpc, request(columns(1)))
    assert (code, set(text)) == (grpc.StatusCode.INVALID_ARGUMENT, {"x"})


def test_methods_that_are_not_there_are_unimplemented(rpc):
    with pytest.raises(grpc.RpcError) as caught:
        call(rpc, b"", "/inference.GRPCInferenceService/ModelStreamInfer")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_every_call_is_observed_once_with_its_model_status_and_rows(served, model):
    with rpc_server({"ads": served}) as address:
        call(address, request(columns(3)))
        refused(address, b"\xff")
        asked = request(columns(1))
        asked.model_name = "made-up"
        refused(address, asked)
        seen = list(address.seen.calls)
    assert [(wire, name, status, rows) for wire, name, status, _, rows in seen] == [
        ("grpc", "ads", "ok", 3),
        ("grpc", "", "invalid", 0),
        ("grpc", "", "not_found", 0),
    ]

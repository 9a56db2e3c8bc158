"""Requests of one form, whose JSON is read once."""

import json
from dataclasses import replace
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream.contracts import Label
from onstream.errors import RequestError
from onstream.serving.model import Input, Signature
from onstream.serving.oip.bodies import parse_ask
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.messages import INFERENCE, message
from onstream.serving.oip.repeats import MessageRepeats, Repeats
from onstream.serving.oip.rpc import _ask as ask_of
from onstream.serving.oip.tensors import TensorReader

SIGNATURE = Signature((Input("user", ("id",)), Input("price", ("number",))), (Label("click", "binary"),))
READER = TensorReader(SIGNATURE, Limits())


def request(users, prices, *, user="INT64", price="FP32", **parameters) -> tuple[bytes, bytes]:
    raw = []
    inputs = []
    for name, datatype, values, dtype in (("user", user, users, "<i8"), ("price", price, prices, "<f4")):
        if datatype == "BYTES":
            data = b"".join(len(v).to_bytes(4, "little") + v for v in values)
        else:
            data = np.array(values, dtype).tobytes()
        raw.append(data)
        inputs.append(
            {
                "name": name,
                "shape": [len(values)],
                "datatype": datatype,
                "parameters": {"binary_data_size": len(data)},
            }
        )
    return json.dumps({"inputs": inputs, "parameters": parameters}).encode(), b"".join(raw)


def keep(repeats: Repeats, head: bytes, raw: bytes):
    parsed = parse_ask(head, raw, Limits())
    rows = READER.read(parsed.ask.tensors)
    repeats.keep(head, raw, parsed, rows)
    return rows


def test_a_request_of_a_known_form_gets_its_own_rows():
    repeats = Repeats()
    keep(repeats, *request([1, 2], [0.5, 1.5]))
    head, raw = request([3, -4], [2.5, 3.5], timeout=7_000)
    assert repeats.read(head, raw) is None
    rows = keep(repeats, head, raw)
    parsed, again = repeats.read(head, raw)
    assert again.equals(rows)
    parsed.ask.timeout_s = 0.0
    other = request([9, 8], [1, 2], timeout=7_000)[1]
    parsed, again = repeats.read(head, other)
    assert again.to_pydict() == {"user": [9, 8], "price": [1.0, 2.0]}
    assert parsed.ask.timeout_s == 0.007


@given(
    st.lists(st.sampled_from(["INT8", "UINT16", "INT32", "INT64"]), min_size=1, max_size=5), st.integers(1, 9)
)
def test_columns_of_any_widths_are_found_where_they_lie(datatypes, num_rows):
    """The first request is of zeros, which look like the gaps that Arrow may leave between columns."""
    names = [f"c{at}" for at in range(len(datatypes))]
    reader = TensorReader(replace(SIGNATURE, inputs=tuple(Input(n, ("id",)) for n in names)), Limits())
    dtypes = [np.dtype(datatype.lower()) for datatype in datatypes]
    inputs = [
        {"name": name, "shape": [num_rows], "datatype": datatype,
         "parameters": {"binary_data_size": num_rows * dtype.itemsize}}
        for name, datatype, dtype in zip(names, datatypes, dtypes, strict=True)
    ]  # fmt: skip
    head = json.dumps({"inputs": inputs}).encode()
    columns = [np.arange(num_rows).astype(dtype) + dtype.type(1 + at) for at, dtype in enumerate(dtypes)]
    repeats = Repeats()
    zeros = b"".join(bytes(column.nbytes) for column in columns)
    parsed = parse_ask(head, zeros, Limits())
    repeats.keep(head, zeros, parsed, reader.read(parsed.ask.tensors))
    known = repeats.read(head, b"".join(column.tobytes() for column in columns))
    aligned = all(
        sum(column.nbytes for column in columns[:at]) % columns[at].itemsize == 0
        for at in range(len(columns))
    )
    assert (known is not None) == aligned
    if known is not None:
        known[1].validate(full=True)
        assert known[1].to_pydict() == {n: c.tolist() for n, c in zip(names, columns, strict=True)}


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_other_data_than_the_form_says_is_left_to_be_refused(change):
    repeats = Repeats()
    head, raw = request([1, 2], [0.5, 1.5])
    keep(repeats, head, raw)
    assert repeats.read(head, raw) is not None
    assert repeats.read(head, change(raw)) is None


@pytest.mark.parametrize(
    "asked",
    [
        request([b"a", b"b"], [0.5, 1.5], user="BYTES"),
        request([1, 2], [0.5, 1.5], missing=1),
        (b'{"inputs":[{"name":"user","shape":[1],"datatype":"INT64","data":[1]},'
         b'{"name":"price","shape":[1],"datatype":"FP32","data":[1]}]}', b""),
    ],
    ids=["texts", "missing values", "data in the JSON"],
)  # fmt: skip
def test_a_form_whose_data_must_be_looked_at_is_not_kept(asked):
    repeats = Repeats()
    keep(repeats, *asked)
    assert repeats.read(*asked) is None


def test_only_so_many_forms_are_kept_the_newest_ones():
    repeats = Repeats()
    asked = [request([1] * n, [0.5] * n) for n in range(1, 102)]
    for one in asked:
        keep(repeats, *one)
    kept = [repeats.read(*one) is not None for one in asked]
    assert kept == [False] * (101 - sum(kept)) + [True] * sum(kept)
    assert 0 < sum(kept) < 100


def rpc_message(users, prices, *, request_id="", model="clicks", datatype="INT64") -> bytes:
    asked = message(INFERENCE, "ModelInferRequest")(model_name=model, id=request_id)
    asked.inputs.add(name="user", datatype=datatype, shape=[len(users)])
    asked.inputs.add(name="price", datatype="FP32", shape=[len(prices)])
    asked.raw_input_contents.append(np.array(users, "<i8").tobytes())
    asked.raw_input_contents.append(np.array(prices, "<f4").tobytes())
    return asked.SerializeToString()


def rpc_keep(repeats: MessageRepeats, data: bytes, reader: TensorReader = READER):
    asked = message(INFERENCE, "ModelInferRequest").FromString(data)
    ask = ask_of(asked, Limits())
    rows = reader.read(ask.tensors)
    repeats.keep(data, (asked.model_name, asked.model_version), reader, ask, rows)
    return rows


def rpc_read(repeats: MessageRepeats, data: bytes, reader: TensorReader = READER):
    return repeats.read(data, lambda _: reader)


def test_a_message_of_a_known_form_gets_its_own_rows_without_being_parsed():
    repeats = MessageRepeats()
    first = rpc_message([1, 2], [0.5, 1.5], request_id="a")
    assert rpc_read(repeats, first) is None
    rows = rpc_keep(repeats, first)
    assert rpc_read(repeats, first).rows.equals(rows)
    found = rpc_read(repeats, rpc_message([-5, 2**62], [7.5, -1], request_id="a"))
    assert (found.model, found.version, found.ask.id) == ("clicks", "", "a")
    assert found.rows.to_pydict() == {"user": [-5, 2**62], "price": [7.5, -1.0]}


@pytest.mark.parametrize(
    "other",
    [
        rpc_message([3, 4], [0.5, 1.5], request_id="b"),
        rpc_message([3, 4], [0.5, 1.5], request_id="a", model="others"),
        rpc_message([3, 4], [0.5, 1.5], request_id="a", datatype="UINT64"),
        rpc_message([3, 4, 5], [0.5, 1.5, 2.5], request_id="a"),
        rpc_message([3, 4], [0.5, 1.5], request_id="a")[:-1],
    ],
    ids=["id", "model", "datatype", "rows", "cut"],
)
def test_a_message_of_another_form_is_not_known(other):
    repeats = MessageRepeats()
    rpc_keep(repeats, rpc_message([1, 2], [0.5, 1.5], request_id="a"))
    assert rpc_read(repeats, other) is None


def test_a_message_whose_raw_contents_are_not_its_end_is_not_kept():
    asked = message(INFERENCE, "ModelInferRequest").FromString(rpc_message([1, 2], [0.5, 1.5]))
    contents = list(asked.raw_input_contents)
    del asked.raw_input_contents[:]
    raw = message(INFERENCE, "ModelInferRequest")(raw_input_contents=contents)
    # Fields may come in any order.
    data = raw.SerializeToString() + asked.SerializeToString()
    repeats = MessageRepeats()
    assert rpc_keep(repeats, data).to_pydict() == {"user": [1, 2], "price": [0.5, 1.5]}
    assert rpc_read(repeats, data) is None


def test_a_form_is_forgotten_with_the_inputs_that_it_was_checked_for():
    repeats = MessageRepeats()
    data = rpc_message([1, 2], [0.5, 1.5])
    rpc_keep(repeats, data)
    assert rpc_read(repeats, data, TensorReader(SIGNATURE, Limits())) is None


def test_only_so_many_forms_of_messages_are_kept_the_newest_ones():
    repeats = MessageRepeats()
    asked = [rpc_message([1, 2], [0.5, 1.5], request_id=f"{n:03}") for n in range(101)]
    for data in asked:
        rpc_keep(repeats, data)
    kept = [rpc_read(repeats, data) is not None for data in asked]
    assert kept == [False] * (101 - sum(kept)) + [True] * sum(kept)
    assert 0 < sum(kept) < 100


SHAPED = st.sampled_from(
    [
        (Input("x", ("id",)), "INT64", []),
        (Input("x", ("id",)), "UINT8", [1]),
        (Input("x", ("number",)), "FP32", []),
        (Input("x", ("number",)), "FP16", []),
        (Input("x", ("number",)), "BOOL", [1]),
        (Input("x", ("list",), (-1,)), "INT64", [1]),
        (Input("x", ("list",), (-1,)), "INT32", [3]),
        (Input("x", ("tensor",), (1,)), "FP32", [1]),
        (Input("x", ("tensor",), (2, 3)), "FP64", [2, 3]),
    ]
)
SIZES = {"INT64": 8, "UINT8": 1, "FP32": 4, "FP16": 2, "BOOL": 1, "INT32": 4, "FP64": 8}


@given(st.lists(SHAPED, min_size=1, max_size=4), st.integers(1, 4), st.data())
def test_whatever_the_inputs_are_a_repeated_request_is_read_as_the_first_one(columns, num_rows, data):
    named = [(replace(one, name=f"x{i}"), *rest) for i, (one, *rest) in enumerate(columns)]
    reader = TensorReader(Signature(tuple(one for one, *_ in named), SIGNATURE.outputs), Limits())
    asked = message(INFERENCE, "ModelInferRequest")(model_name="m")
    inputs = []
    for one, datatype, shape in named:
        raw = bytes(
            data.draw(
                st.lists(
                    st.integers(0, 1), min_size=(n := num_rows * prod(shape) * SIZES[datatype]), max_size=n
                )
            )
        )
        asked.inputs.add(name=one.name, datatype=datatype, shape=[num_rows, *shape])
        asked.raw_input_contents.append(raw)
        told = {"name": one.name, "datatype": datatype, "shape": [num_rows, *shape]}
        inputs.append({**told, "parameters": {"binary_data_size": len(raw)}})
    head, raw = json.dumps({"inputs": inputs}).encode(), b"".join(asked.raw_input_contents)
    rest, rpc = Repeats(), MessageRepeats()
    parsed = parse_ask(head, raw, Limits())
    rows = reader.read(parsed.ask.tensors)
    rest.keep(head, raw, parsed, rows)
    found = rest.read(head, raw)
    assert found is None or found[1].equals(rows)
    rpc_keep(rpc, asked.SerializeToString(), reader)
    again = rpc_read(rpc, asked.SerializeToString(), reader)
    assert again is None or again.rows.equals(rows)


def test_an_id_that_cannot_be_sent_back_is_refused():
    with pytest.raises(RequestError, match="'id' must be a text"):
        parse_ask(b'{"id": "\\ud800", "inputs": []}', b"", Limits())

"""Requests of one form, whose JSON is read once."""

import json

import numpy as np
import pytest

from onstream.contracts import Label
from onstream.serving.model import Input, Signature
from onstream.serving.oip.bodies import parse_ask
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.repeats import Repeats
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

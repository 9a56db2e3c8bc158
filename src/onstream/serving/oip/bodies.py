"""An inference request, and its answer, as the body of an HTTP message: JSON, then the raw bytes of tensors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from onstream.contracts import Label
from onstream.errors import RequestError
from onstream.serving.model import Answer
from onstream.serving.oip.calls import Ask, missing_for, refuse_parameters, timeout_of
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.tensors import Tensor, output_of, output_shape, shown

__all__ = ["Form", "Parsed", "TooLargeError", "inflate", "parse_ask", "render_answer", "split"]

_INT = {int}
_NOTHING: dict[str, Any] = {}


class TooLargeError(RequestError):
    """A body is larger than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than the limit of {limit} bytes")


class Form(NamedTuple):
    """Which outputs are to be answered as raw bytes: those named, or by default all or none."""

    binary: bool
    named: dict[str, bool]


class Parsed(NamedTuple):
    """What a request asks, and in which form it is to be answered."""

    ask: Ask
    form: Form


def inflate(body: bytes, encoding: bytes, limit: int) -> bytes:
    """Return the body as it was before compression, never making more than `limit` bytes of it.

    Raises
    ------
    RequestError
        If the encoding is neither gzip nor deflate, or the body is damaged, cut short or followed by more.
    TooLargeError
    """
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise RequestError(
            f"the content encoding must be gzip or deflate, got {shown(encoding.decode('latin-1'))}"
        )
    # 32 more than the window: zlib looks whether it is gzip or deflate.
    stream = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError("the compressed body is damaged") from None
    if len(plain) > limit:
        raise TooLargeError(limit)
    if not stream.eof or stream.unused_data:
        raise RequestError("the compressed body is cut short, or followed by more")
    return plain


def split(body: bytes, header_length: bytes | None) -> tuple[bytes, bytes]:
    """Return the JSON of a body, and the raw bytes that follow it.

    Parameters
    ----------
    body : bytes
    header_length : bytes, optional
        Value of the header "Inference-Header-Content-Length": where JSON ends and raw bytes begin.

    Raises
    ------
    RequestError
    """
    if header_length is None:
        return body, b""
    at = _length(header_length, len(body))
    # A copy: new bytes are aligned, as their readers need them.
    return body[:at], body[at:]


def parse_ask(head: bytes, raw: bytes, limits: Limits) -> Parsed:
    """Return what a body asks for, from its JSON and the raw bytes that follow it.

    Raises
    ------
    RequestError
    """
    message = _load(head)
    request_id = message.get("id", "")
    if type(request_id) is not str or not _is_text(request_id):
        raise RequestError(f"'id' must be a text, got {shown(request_id)}")
    parameters = _parameters(message, "the request")
    refuse_parameters(parameters, "the request")
    tensors = _tensors(_objects(message, "inputs", limits), raw, parameters.get("missing"))
    names = []
    named = {}
    if "outputs" in message:
        for output in _objects(message, "outputs", limits):
            name = _text(output, "name", "an output")
            wants = _parameters(output, name)
            refuse_parameters(wants, f"output {shown(name)}")
            names.append(name)
            if "binary_data" in wants:
                named[name] = _flag(wants, "binary_data")
    form = Form(_flag(parameters, "binary_data_output"), named)
    return Parsed(Ask(request_id, tensors, names, timeout_of(parameters.get("timeout"))), form)


def render_answer(
    model: str, answer: Answer, labels: Sequence[Label], num_rows: int, ask: Ask, form: Form
) -> tuple[list[bytes], int | None]:
    """Return the parts of the body of an answer, and the length of its JSON if raw bytes follow it."""
    outputs = []
    parts = [b""]
    for label in labels:
        values = output_of(label, answer.predictions, num_rows)
        output: dict[str, Any] = {
            "name": label.name,
            "datatype": "FP32",
            "shape": output_shape(label, num_rows),
        }
        if form.named.get(label.name, form.binary):
            parts.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            # Numbers that are not finite become null: JSON has no word for them.
            output["data"] = values.ravel()
        outputs.append(output)
    facts: dict[str, Any] = {"model_name": model, "model_version": str(answer.version)}
    if ask.id:
        facts["id"] = ask.id
    facts["outputs"] = outputs
    parts[0] = orjson.dumps(facts, option=orjson.OPT_SERIALIZE_NUMPY)
    return parts, len(parts[0]) if len(parts) > 1 else None


def _load(text: bytes) -> dict[str, Any]:
    try:
        message = orjson.loads(text)
    except ValueError:
        message = _load_leniently(text)
    if type(message) is not dict:
        raise RequestError("the body must be a JSON object")
    return message


def _is_text(text: str) -> bool:
    """Return whether a text can be sent back: half characters can be read and not be written."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _load_leniently(text: bytes) -> Any:
    """Read also the NaN and the half characters that clients in Python write."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise RequestError(f"the body is no JSON: {why}") from None


def _length(header: bytes, size: int) -> int:
    if not header.isdigit() or len(header) > 10 or not 0 < int(header) <= size:
        raise RequestError(
            f"the header Inference-Header-Content-Length must be the length of the JSON, from 1 to the body's "
            f"{size} bytes, got {shown(header.decode('latin-1'))}"
        )
    return int(header)


def _tensors(inputs: list[dict[str, Any]], raw: bytes, common_missing: object) -> list[Tensor]:
    tensors = []
    at = 0
    view = memoryview(raw)
    for one in inputs:
        name = _text(one, "name", "an input")
        datatype = _text(one, "datatype", name)
        shape = one.get("shape")
        if type(shape) is not list or not set(map(type, shape)) <= _INT:
            raise RequestError(
                f"input {shown(name)}: 'shape' must be a list of whole numbers, got {shown(shape)}"
            )
        parameters = _parameters(one, name)
        size = parameters.get("binary_data_size")
        own_missing = None
        if len(parameters) > (size is not None):
            refuse_parameters(parameters, f"input {shown(name)}")
            own_missing = parameters.get("missing")
        missing = None
        if own_missing is not None or common_missing is not None:
            missing = missing_for(datatype, own_missing, common_missing, name)
        if size is None:
            values = one.get("data")
            if type(values) is not list:
                raise RequestError(f"input {shown(name)}: 'data' must be a list, got {shown(values)}")
            tensors.append(Tensor(name, datatype, shape, None, values, missing))
            continue
        if "data" in one:
            raise RequestError(f"input {shown(name)} has both 'data' and 'binary_data_size'")
        if type(size) is not int or not 0 <= size <= len(raw) - at:
            raise RequestError(
                f"input {shown(name)}: 'binary_data_size' must be from 0 to the {len(raw) - at} bytes that are "
                f"left of the body, got {shown(size)}"
            )
        tensors.append(Tensor(name, datatype, shape, view[at : at + size], (), missing))
        at += size
    if at != len(raw):
        raise RequestError(f"the inputs take {at} of the {len(raw)} bytes that follow the JSON")
    return tensors


def _objects(message: dict[str, Any], name: str, limits: Limits) -> list[dict[str, Any]]:
    found = message.get(name)
    if type(found) is not list or any(type(one) is not dict for one in found):
        raise RequestError(f"{name!r} must be a list of objects")
    if len(found) > limits.max_inputs:
        raise RequestError(f"{name!r} may have at most {limits.max_inputs} entries, got {len(found)}")
    return found


def _text(part: dict[str, Any], key: str, place: str) -> str:
    value = part.get(key)
    if type(value) is not str:
        raise RequestError(f"{shown(place)}: {key!r} must be a text, got {shown(value)}")
    return value


def _parameters(part: dict[str, Any], place: str) -> dict[str, Any]:
    parameters = part.get("parameters", _NOTHING)
    if type(parameters) is not dict:
        raise RequestError(f"{shown(place)}: 'parameters' must be an object, got {shown(parameters)}")
    return parameters


def _flag(parameters: dict[str, Any], key: str) -> bool:
    value = parameters.get(key, False)
    if type(value) is not bool:
        raise RequestError(f"parameter {key!r} must be true or false, got {shown(value)}")
    return value

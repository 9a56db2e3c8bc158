"""The Open Inference Protocol over gRPC, as handlers for a server of `grpc.aio`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final, TypeAlias

from onstream.contracts import Label
from onstream.errors import MissingExtraError, NotFoundError, RequestError
from onstream.serving.access import Access
from onstream.serving.model import Answer, Model
from onstream.serving.oip.calls import (
    Ask,
    Calls,
    Observe,
    Record,
    Status,
    error_text,
    missing_for,
    refuse_parameters,
    status_of,
    timeout_of,
    version_of,
)
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.messages import HEALTH, INFERENCE, DecodeError, message
from onstream.serving.oip.repeats import MessageRepeats
from onstream.serving.oip.tensors import Tensor, labels_of, output_of, output_shape, shown

try:
    import grpc
except ImportError as error:
    raise MissingExtraError("gRPC needs grpcio: pip install 'onstream[serving]'") from error

__all__ = ["rpc_handlers", "rpc_options"]

Handler: TypeAlias = Callable[[Any, Any, Record], Awaitable[Any]]

SERVICE: Final = f"{INFERENCE}.GRPCInferenceService"
HEALTH_SERVICE: Final = f"{HEALTH}.Health"


def rpc_handlers(
    models: Mapping[str, Model],
    access: Access,
    limits: Limits | None = None,
    *,
    observe: Observe | None = None,
) -> Sequence[Any]:
    """Return the handlers of the Open Inference Protocol and of gRPC's health check.

    Add them to a server: ``server = grpc.aio.server(options=rpc_options(limits))``, then
    ``server.add_generic_rpc_handlers(rpc_handlers(...))``.

    Parameters
    ----------
    models : mapping of str to Model
        By name. It may change while the server runs.
    access : Access
        Its tokens are asked for by all but the health of the server, so that probes need none.
    limits : Limits, optional
    observe : callable, optional
        Called once for every request; see `onstream.serving.oip.calls.Observe`.

    Notes
    -----
    Every call is answered, within its deadline and `Limits.timeout_s`: with what was asked for, or with status
    INVALID_ARGUMENT, UNAUTHENTICATED, NOT_FOUND, UNAVAILABLE, DEADLINE_EXCEEDED or, with a text that says nothing,
    INTERNAL. The prediction of a call that its client cancels is cancelled too.
    """
    rpc = _Rpc(models, access, limits or Limits(), observe)
    inference = {
        "ServerLive": rpc.server_live,
        "ServerReady": rpc.server_ready,
        "ModelReady": rpc.model_ready,
        "ServerMetadata": rpc.server_metadata,
        "ModelMetadata": rpc.model_metadata,
    }
    return (
        grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "ModelInfer": rpc.handler(rpc.model_infer),
                **{n: rpc.handler(_parsing(INFERENCE, f"{n}Request", call)) for n, call in inference.items()},
            },
        ),
        grpc.method_handlers_generic_handler(
            HEALTH_SERVICE,
            {"Check": rpc.handler(_parsing(HEALTH, "HealthCheckRequest", rpc.health_check))},
        ),
    )


def rpc_options(limits: Limits | None = None) -> list[tuple[str, int]]:
    """Return the options that a server of gRPC needs to keep to `limits`."""
    return [
        ("grpc.max_receive_message_length", (limits or Limits()).max_body_bytes),
        ("grpc.max_send_message_length", -1),
    ]


_CODES: Final[Mapping[Status, Any]] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
}

_CONTENTS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

_SERVING, _NOT_SERVING = 1, 2

# Clients refuse an answer whose metadata, which the text of an error is part of, is beyond 8 KiB.
_MAX_DETAILS = 1000


class _Rpc:
    def __init__(
        self, models: Mapping[str, Model], access: Access, limits: Limits, observe: Observe | None
    ) -> None:
        self._calls = Calls(models, limits, observe)
        self._access = access
        self._limits = limits
        self._repeats = MessageRepeats()

    def handler(self, call: Handler) -> Any:
        """Return the handler of one method: its errors become statuses, and it is told to the observer."""

        async def handle(data: bytes, context: Any) -> bytes:
            record = Record()
            try:
                answer = await call(data, context, record)
                serialized: bytes = answer.SerializeToString()
                record.status = "ok"
                return serialized
            except Exception as error:
                record.status = status_of(error)
                refusal = _CODES[record.status], error_text(error)[:_MAX_DETAILS]
            except BaseException as error:
                record.status = status_of(error)
                raise
            finally:
                self._calls.close("grpc", record)
            await context.abort(*refusal)
            raise AssertionError("abort always raises")

        return grpc.unary_unary_rpc_method_handler(handle)

    async def server_live(self, request: Any, context: Any, record: Record) -> Any:
        return message(INFERENCE, "ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, context: Any, record: Record) -> Any:
        return message(INFERENCE, "ServerReadyResponse")(ready=not self._calls.not_ready())

    async def model_ready(self, request: Any, context: Any, record: Record) -> Any:
        self._check(context)
        reason = self._calls.model_not_ready(request.name, request.version)
        return message(INFERENCE, "ModelReadyResponse")(ready=reason is None)

    async def server_metadata(self, request: Any, context: Any, record: Record) -> Any:
        self._check(context)
        return message(INFERENCE, "ServerMetadataResponse")(name="onstream", version=version("onstream"))

    async def model_metadata(self, request: Any, context: Any, record: Record) -> Any:
        self._check(context)
        facts = self._calls.metadata(request.name, request.version)
        return message(INFERENCE, "ModelMetadataResponse")(**facts)

    async def health_check(self, request: Any, context: Any, record: Record) -> Any:
        if request.service not in ("", SERVICE, HEALTH_SERVICE):
            raise NotFoundError(f"there is no service {shown(request.service)}")
        status = _NOT_SERVING if self._calls.not_ready() else _SERVING
        return message(HEALTH, "HealthCheckResponse")(status=status)

    async def model_infer(self, data: bytes, context: Any, record: Record) -> Any:
        self._check(context)
        known = self._repeats.read(data, lambda name: self._calls.reader(self._calls.model(name)))
        if known is not None:
            named, ask, rows, raw = (known.model, known.version), known.ask, known.rows, True
        else:
            request = _parsed(message(INFERENCE, "ModelInferRequest").FromString, data)
            named, raw = (request.model_name, request.model_version), bool(request.raw_input_contents)
        model = self._calls.model(named[0])
        record.model = named[0]
        wanted = version_of(*named)
        if known is None:
            ask = _ask(request, self._limits)
            reader = self._calls.reader(model)
            rows = reader.read(ask.tensors)
            self._repeats.keep(data, named, reader, ask, rows)
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            ask.timeout_s = max(
                0.0, remaining_s if ask.timeout_s is None else min(ask.timeout_s, remaining_s)
            )
        labels = labels_of(model.signature(), ask.outputs)
        answer = await self._calls.predict(model, wanted, rows, ask.timeout_s, record)
        return _response(named[0], ask.id, answer, labels, record.rows, raw=raw)

    def _check(self, context: Any) -> None:
        """Raise AccessError unless the call bears a token, if one is asked."""
        if self._access.tokens:
            self._access.check_bearer(dict(context.invocation_metadata()).get("authorization"))


def _parsing(package: str, request_name: str, call: Handler) -> Handler:
    """Return a call that takes bytes as one that takes a message."""
    parse = message(package, request_name).FromString

    async def parsed(data: bytes, context: Any, record: Record) -> Any:
        return await call(_parsed(parse, data), context, record)

    return parsed


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    # Not done by gRPC, which would call a damaged message an error of the server.
    try:
        return parse(data)
    except DecodeError:
        raise RequestError("the message cannot be parsed") from None


def _ask(request: Any, limits: Limits) -> Ask:
    """Return what a request asks for. Raises RequestError."""
    for what, found in (("inputs", request.inputs), ("outputs", request.outputs)):
        if len(found) > limits.max_inputs:
            raise RequestError(f"{what!r} may have at most {limits.max_inputs} entries, got {len(found)}")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise RequestError(
            f"raw_input_contents must have one entry for each of the {len(request.inputs)} inputs, got {len(raw)}"
        )
    parameters = _parameters(request)
    refuse_parameters(parameters, "the request")
    common_missing = parameters.get("missing")
    tensors = []
    for index, one in enumerate(request.inputs):
        own_missing = None
        if one.parameters:
            own = _parameters(one)
            refuse_parameters(own, f"input {shown(one.name)}")
            own_missing = own.get("missing")
        missing = None
        if own_missing is not None or common_missing is not None:
            missing = missing_for(one.datatype, own_missing, common_missing, one.name)
        if raw:
            if one.HasField("contents"):
                raise RequestError(f"input {shown(one.name)} has contents, and so has raw_input_contents")
            tensors.append(Tensor(one.name, one.datatype, one.shape, raw[index], (), missing))
        else:
            values = _values(one)
            tensors.append(Tensor(one.name, one.datatype, one.shape, None, values, missing))
    for output in request.outputs:
        refuse_parameters(_parameters(output), f"output {shown(output.name)}")
    names = [output.name for output in request.outputs]
    return Ask(request.id, tensors, names, timeout_of(parameters.get("timeout")))


def _values(one: Any) -> list[Any]:
    """Return the typed elements of an input. Raises RequestError."""
    if one.datatype not in _CONTENTS:
        raise RequestError(f"input {shown(one.name)}: {shown(one.datatype)} can only be sent as raw contents")
    return list(getattr(one.contents, _CONTENTS[one.datatype]))


def _parameters(part: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in part.parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(parameter, choice)
    return found


def _response(
    model: str, request_id: str, answer: Answer, labels: Sequence[Label], num_rows: int, *, raw: bool
) -> Any:
    """Return the answer, raw if the request was raw and typed if it was typed."""
    response = message(INFERENCE, "ModelInferResponse")(
        model_name=model, model_version=str(answer.version), id=request_id
    )
    for label in labels:
        values = output_of(label, answer.predictions, num_rows)
        output = response.outputs.add(name=label.name, datatype="FP32", shape=output_shape(label, num_rows))
        if raw:
            response.raw_output_contents.append(values.tobytes())
        else:
            output.contents.fp32_contents.extend(values.ravel())
    return response

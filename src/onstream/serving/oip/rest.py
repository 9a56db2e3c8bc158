"""The Open Inference Protocol over REST, as an ASGI application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from importlib.metadata import version
from typing import Any, Final, NamedTuple, TypeAlias

import pyarrow as pa

from onstream.errors import AccessError, NotFoundError, RequestError, UnavailableError
from onstream.serving.access import Access
from onstream.serving.model import Model
from onstream.serving.oip.bodies import Parsed, TooLargeError, inflate, parse_ask, render_answer, split
from onstream.serving.oip.calls import Calls, Observe, Record, Status, error_text, status_of, version_of
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.repeats import Repeats
from onstream.serving.oip.tensors import TensorReader, labels_of, shown

__all__ = ["App", "rest_app"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = Mapping[bytes, bytes]


def rest_app(
    models: Mapping[str, Model],
    access: Access,
    limits: Limits | None = None,
    *,
    observe: Observe | None = None,
) -> App:
    """Return an ASGI application that answers the Open Inference Protocol.

    Parameters
    ----------
    models : mapping of str to Model
        By name. It may change while the application runs.
    access : Access
        Its tokens are asked for by all but the health of the server, so that probes need none.
    limits : Limits, optional
    observe : callable, optional
        Called once for every request; see `onstream.serving.oip.calls.Observe`.

    Notes
    -----
    Every request gets an answer, within `Limits.timeout_s` of the time at which it has arrived: what was asked
    for, or ``{"error": text}`` with status 400 (the request), 401 (the token), 404 (model or version), 405, 413
    (the size), 503 (not now; with Retry-After), 504 (too late) or 500 (anything else; the text says nothing).
    """
    return _App(models, access, limits or Limits(), observe)


class _Response(NamedTuple):
    status: int
    parts: Sequence[bytes]
    headers: Sequence[tuple[bytes, bytes]] = ()


class _NoRouteError(NotFoundError):
    """There is nothing at a path."""


class _MethodError(RequestError):
    """A path is asked in a way that it does not answer."""

    def __init__(self, allowed: str) -> None:
        super().__init__(f"only {allowed} is answered here")
        self.allowed = allowed


class _GoneError(Exception):
    """The client went away before its request had arrived."""


_CODES: Final[Mapping[Status, int]] = {
    "invalid": 400,
    "unauthenticated": 401,
    "not_found": 404,
    "unavailable": 503,
    "deadline": 504,
    "internal": 500,
}
_JSON: Final = (b"content-type", b"application/json")
_OCTETS: Final = (b"content-type", b"application/octet-stream")
_CLOSE: Final = (b"connection", b"close")


class _App:
    def __init__(
        self, models: Mapping[str, Model], access: Access, limits: Limits, observe: Observe | None
    ) -> None:
        self._calls = Calls(models, limits, observe)
        self._access = access
        self._limits = limits
        self._repeats: dict[str, tuple[TensorReader, Repeats]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        record = Record()
        try:
            response = await self._answer(scope, receive, record)
            record.status = "ok" if response.status == 200 else "unavailable"
        except _GoneError:
            record.status = "cancelled"
            return
        except Exception as error:
            record.status = status_of(error)
            response = _refusal(error)
        except BaseException as error:
            record.status = status_of(error)
            raise
        finally:
            self._calls.close("rest", record)
        size = sum(map(len, response.parts))
        length = (b"content-length", str(size).encode())
        await send(
            {"type": "http.response.start", "status": response.status, "headers": [length, *response.headers]}
        )
        body = response.parts[0] if len(response.parts) == 1 else b"".join(response.parts)
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, record: Record) -> _Response:
        headers = dict(scope["headers"])
        match scope["path"].rstrip("/").split("/")[1:]:
            case ["v2", "models", name, "infer"]:
                return await self._infer(name, "", scope, headers, receive, record)
            case ["v2", "models", name, "versions", number, "infer"]:
                return await self._infer(name, number, scope, headers, receive, record)
            case ["v2", *rest]:
                return self._tell(rest, scope, headers)
        raise _NoRouteError(f"there is nothing at {shown(scope['path'])}")

    def _tell(self, path: list[str], scope: Scope, headers: Headers) -> _Response:
        """Answer what asks about the server or a model."""
        match path:
            case ["health", "live"]:
                _only("GET", scope)
                return _json(200, {"live": True})
            case ["health", "ready"]:
                _only("GET", scope)
                return self._ready(headers)
        self._access.check_bearer(headers.get(b"authorization"))
        match path:
            case []:
                _only("GET", scope)
                facts = {"name": "onstream", "version": version("onstream")}
                return _json(200, {**facts, "extensions": ["binary_tensor_data"]})
            case ["models", name] | ["models", name, "versions", _]:
                _only("GET", scope)
                return _json(200, self._calls.metadata(name, path[3] if len(path) > 2 else ""))
            case ["models", name, "ready"] | ["models", name, "versions", _, "ready"]:
                _only("GET", scope)
                reason = self._calls.model_not_ready(name, path[3] if len(path) > 3 else "")
                if reason is None:
                    return _json(200, {"name": name, "ready": True})
                error = f"model {name!r} is not ready: {reason}"
                return _json(503, {"name": name, "ready": False, "error": error}, retry=True)
        raise _NoRouteError(f"there is nothing at {shown(scope['path'])}")

    def _ready(self, headers: Headers) -> _Response:
        """Tell anybody whether all models are ready, and who may ask also why not."""
        reasons = self._calls.not_ready()
        if not reasons:
            return _json(200, {"ready": True})
        error = "not all models are ready"
        try:
            self._access.check_bearer(headers.get(b"authorization"))
        except AccessError:
            return _json(503, {"ready": False, "error": error}, retry=True)
        return _json(503, {"ready": False, "error": error, "models": reasons}, retry=True)

    async def _infer(
        self, name: str, number: str, scope: Scope, headers: Headers, receive: Receive, record: Record
    ) -> _Response:
        _only("POST", scope)
        self._access.check_bearer(headers.get(b"authorization"))
        model = self._calls.model(name)
        record.model = name
        wanted = version_of(name, number)
        body = await _body(headers, receive, self._limits)
        head, raw = split(body, headers.get(b"inference-header-content-length"))
        (ask, form), rows = self._read(model, head, raw)
        ask.timeout_s = _sooner(ask.timeout_s, headers.get(b"x-envoy-expected-rq-timeout-ms"))
        labels = labels_of(model.signature(), ask.outputs)
        answer = await self._calls.predict(model, wanted, rows, ask.timeout_s, record)
        parts, header_length = render_answer(name, answer, labels, record.rows, ask, form)
        if header_length is None:
            return _Response(200, parts, (_JSON,))
        length = (b"inference-header-content-length", str(header_length).encode())
        return _Response(200, parts, (_OCTETS, length))

    def _read(self, model: Model, head: bytes, raw: bytes) -> tuple[Parsed, pa.RecordBatch]:
        """Return what a body asks for, and of which rows."""
        reader = self._calls.reader(model)
        known, repeats = self._repeats.get(model.name, (None, None))
        if known is not reader or repeats is None:
            # Another reader is one of other inputs.
            repeats = Repeats()
            self._repeats[model.name] = reader, repeats
        if (found := repeats.read(head, raw)) is not None:
            return found
        parsed = parse_ask(head, raw, self._limits)
        rows = reader.read(parsed.ask.tensors)
        repeats.keep(head, raw, parsed, rows)
        return parsed, rows


async def _body(headers: Headers, receive: Receive, limits: Limits) -> bytes:
    """Return the body of a request, read no further than the limit.

    Raises
    ------
    TooLargeError
    RequestError
        If it does not arrive in time.
    """
    declared = headers.get(b"content-length")
    if declared is not None and int(declared) > limits.max_body_bytes:
        raise TooLargeError(limits.max_body_bytes)
    parts = []
    size = 0
    try:
        async with asyncio.timeout(limits.timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > limits.max_body_bytes:
                    raise TooLargeError(limits.max_body_bytes)
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise _SlowError(f"the body did not arrive within {limits.timeout_s:g} s") from None
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    return body if encoding == b"identity" else inflate(body, encoding, limits.max_body_bytes)


class _SlowError(RequestError):
    """A body does not arrive."""


def _sooner(timeout_s: float | None, milliseconds: bytes | None) -> float | None:
    """Return the shorter of a timeout and that of the header by which Envoy and Istio tell theirs."""
    if milliseconds is None or not milliseconds.isdigit() or len(milliseconds) > 12 or not int(milliseconds):
        return timeout_s
    seconds = int(milliseconds) / 1e3
    return seconds if timeout_s is None else min(timeout_s, seconds)


def _only(method: str, scope: Scope) -> None:
    if scope["method"] != method and not (method == "GET" and scope["method"] == "HEAD"):
        raise _MethodError(method)


def _json(status: int, facts: Mapping[str, Any], *, retry: bool = False) -> _Response:
    body = json.dumps(facts, separators=(",", ":")).encode()
    return _Response(status, (body,), (_JSON, (b"retry-after", b"1")) if retry else (_JSON,))


def _refusal(error: Exception) -> _Response:
    """Return the answer that tells a client of an error."""
    code = _CODES[status_of(error)]
    headers = [_JSON]
    match error:
        case TooLargeError():
            code = 413
            headers.append(_CLOSE)
        case _SlowError():
            code = 408
            headers.append(_CLOSE)
        case _MethodError():
            code = 405
            headers.append((b"allow", error.allowed.encode()))
        case AccessError():
            headers.append((b"www-authenticate", b"Bearer"))
        case UnavailableError():
            headers.append((b"retry-after", b"1"))
    body = json.dumps({"error": error_text(error)}).encode()
    return _Response(code, (body,), headers)


async def _other(scope: Scope, receive: Receive, send: Send) -> None:
    """Agree to be started and stopped; refuse what is not HTTP."""
    if scope["type"] == "lifespan":
        for stage in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{stage}.complete"})
    else:
        await send({"type": "websocket.close", "code": 1000})

"""What an inference request asks and how it is answered, whichever wire it came by."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, TypeGuard

import pyarrow as pa

from onstream.errors import (
    AccessError,
    DeadlineError,
    NotFoundError,
    OnstreamError,
    RequestError,
    UnavailableError,
)
from onstream.serving.model import Answer, Model
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.tensors import Missing, Tensor, TensorReader, datatypes_of, shown

__all__ = ["Ask", "Calls", "Observe", "Record", "Status", "error_text", "missing_for", "status_of"]

Status: TypeAlias = Literal[
    "ok", "invalid", "unauthenticated", "not_found", "unavailable", "deadline", "cancelled", "internal"
]

Observe: TypeAlias = Callable[[str, str, Status, float, int], None]
"""Told of every request once it is answered: wire ("rest" or "grpc"), model, status, seconds and rows.

The model is "" unless the request asked a served model for predictions: names that clients make up never
reach metrics. The rows are 0 unless it was answered.
"""

PLATFORM: Final = "onstream_checkpoint"

_log = logging.getLogger(__name__)

_STATUSES: Final[Sequence[tuple[type[OnstreamError], Status]]] = (
    (RequestError, "invalid"),
    (AccessError, "unauthenticated"),
    (NotFoundError, "not_found"),
    (UnavailableError, "unavailable"),
    (DeadlineError, "deadline"),
)


@dataclass(slots=True)
class Ask:
    """An inference request: what is asked for, of which rows, and until when.

    Attributes
    ----------
    id : str
        Given back as it came.
    tensors : list of Tensor
    outputs : list of str
        Names of the outputs asked for; all when empty.
    timeout_s : float, optional
    """

    id: str
    tensors: list[Tensor]
    outputs: list[str]
    timeout_s: float | None


class Record:
    """What `Observe` is told of one request, gathered while it is answered."""

    __slots__ = ("began", "model", "rows", "status")

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.model = ""
        self.rows = 0
        self.status: Status = "internal"


class Calls:
    """The models behind a wire, by name.

    Parameters
    ----------
    models : mapping of str to Model
        Looked at for each request: what is added or removed is seen at once.
    limits : Limits
    observe : callable, optional
        See `Observe`. What it raises is logged and changes no answer.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits, observe: Observe | None) -> None:
        self.limits = limits
        self._models = models
        self._observe = observe
        self._readers: dict[str, TensorReader] = {}

    def model(self, name: str) -> Model:
        """Return the model of a name. Raises NotFoundError."""
        try:
            return self._models[name]
        except KeyError:
            raise NotFoundError(f"there is no model {shown(name)}") from None

    def not_ready(self) -> dict[str, str]:
        """Return why each model that is not ready is not."""
        reasons = {name: model.not_ready() for name, model in self._models.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    def model_not_ready(self, name: str, version: str) -> str | None:
        """Return why a model, or one version of it, should get no requests. Raises NotFoundError."""
        model = self.model(name)
        wanted = version_of(name, version)
        reason = model.not_ready()
        if reason is None and wanted is not None and wanted not in model.versions():
            return f"version {wanted} is not loaded"
        return reason

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        """Return what a model takes and gives, in the words of the protocol.

        Raises
        ------
        NotFoundError, UnavailableError
        """
        model = self.model(name)
        wanted = version_of(name, version)
        signature = model.signature()
        versions = model.versions()
        if wanted is not None and wanted not in versions:
            raise NotFoundError(f"version {wanted} of model {name!r} is not loaded")
        inputs = [
            {"name": one.name, "datatype": datatypes_of(one)[0], "shape": [-1, *one.shape]}
            for one in signature.inputs
        ]
        outputs = [
            {
                "name": one.name,
                "datatype": "FP32",
                "shape": [-1, one.classes] if one.task == "class" else [-1],
            }
            for one in signature.outputs
        ]
        named = [str(v) for v in ((wanted,) if wanted is not None else versions)]
        return {"name": name, "versions": named, "platform": PLATFORM, "inputs": inputs, "outputs": outputs}

    def reader(self, model: Model) -> TensorReader:
        """Return the reader of a model's inputs. Raises UnavailableError while no version is loaded."""
        signature = model.signature()
        reader = self._readers.get(model.name)
        if reader is None or (reader.signature is not signature and reader.signature != signature):
            reader = self._readers[model.name] = TensorReader(signature, self.limits)
        return reader

    async def predict(
        self, model: Model, version: int | None, rows: pa.RecordBatch, timeout_s: float | None, record: Record
    ) -> Answer:
        """Predict the rows of a request; how many they are is put into `record`.

        Raises
        ------
        RequestError, NotFoundError, UnavailableError, DeadlineError
            As `Model.predict`, and DeadlineError when the model does not answer in time.
        """
        timeout_s = self.limits.timeout_s if timeout_s is None else min(timeout_s, self.limits.timeout_s)
        answer = await _result(model.predict(rows, version=version, timeout_s=timeout_s), timeout_s)
        record.rows = rows.num_rows
        return answer

    def close(self, wire: str, record: Record) -> None:
        """Tell the observer of a request that is answered."""
        if self._observe is not None:
            seconds = time.perf_counter() - record.began
            try:
                self._observe(wire, record.model, record.status, seconds, record.rows)
            except Exception:
                _log.exception("the observer of requests failed")


async def _result(future: Future[Answer], timeout_s: float) -> Answer:
    """Wait for an answer that a thread gives.

    `asyncio.wrap_future` and `asyncio.timeout` do the same in four times the time, for every request.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[bool] = loop.create_future()

    def end(answered: bool) -> None:
        if not ended.done():
            ended.set_result(answered)

    def tell(_: Future[Answer]) -> None:
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end, True)

    future.add_done_callback(tell)
    alarm = loop.call_later(timeout_s, end, False)
    try:
        answered = await ended
    finally:
        alarm.cancel()
        future.cancel()
    if not answered:
        raise DeadlineError(f"no prediction within {timeout_s:g} s")
    try:
        return future.result()
    except CancelledError:
        # It was the model that gave up, and not the client.
        raise UnavailableError("the prediction was given up; ask again") from None


def version_of(model: str, text: str) -> int | None:
    """Return the version that a request names; None where it names none. Raises NotFoundError."""
    if not text:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 19:
        return int(text)
    raise NotFoundError(f"model {model!r} has no version {shown(text)}; versions are whole numbers")


def missing_for(datatype: str, own: object, common: object, name: str) -> Missing:
    """Return what stands for a missing value in an input: what is said there, or for the whole request.

    Raises
    ------
    RequestError
        If the input itself names something that its datatype cannot hold.
    """
    if own is not None:
        if not _stands_for(own, datatype):
            raise RequestError(
                f"input {shown(name)}: parameter 'missing' must be a whole number for integers and a text for "
                f"BYTES, and floats have NaN; got {shown(own)} for {shown(datatype)}"
            )
        return own
    return common if _stands_for(common, datatype) else None


def _stands_for(value: object, datatype: str) -> TypeGuard[int | str]:
    if datatype == "BYTES":
        return type(value) is str
    return type(value) is int and datatype.startswith(("INT", "UINT"))


def timeout_of(microseconds: object) -> float | None:
    """Return the seconds that the request parameter "timeout" says. Raises RequestError."""
    if microseconds is None:
        return None
    if type(microseconds) is not int or microseconds < 0:
        raise RequestError(
            f"parameter 'timeout' must be a whole number of microseconds, got {shown(microseconds)}"
        )
    # 0 is how clients of this protocol say that they set none. More than a year is as good as none, and a float.
    return min(microseconds, 2**45) / 1e6 if microseconds else None


def refuse_parameters(parameters: Mapping[str, Any], place: str) -> None:
    """Raise RequestError for parameters that would change the answer in a way that is not offered."""
    for name in ("classification", "shared_memory_region", "sequence_id"):
        if parameters.get(name):
            raise RequestError(f"{place}: parameter {name!r} is not supported")


def status_of(error: BaseException) -> Status:
    """Return the status that an error ends a request with."""
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), "internal")


def error_text(error: BaseException) -> str:
    """Return what a client is told of an error. An error that no client can cause is logged, and only that."""
    if status_of(error) != "internal":
        return str(error)
    _log.error("a request failed", exc_info=error)
    return "internal error; the server's log says more"

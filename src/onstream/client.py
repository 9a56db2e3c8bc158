"""The client: send examples, learn from them, predict, over Arrow Flight."""

from __future__ import annotations

import json
import math
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.flight as fl

from onstream.errors import (
    AccessError,
    DeadlineError,
    NotFoundError,
    OnstreamError,
    RequestError,
    UnavailableError,
)

__all__ = ["Client", "Learned", "Prediction", "Rows"]

Rows: TypeAlias = Any
"""A dict (one row), a list of dicts, a pyarrow batch or table, or any frame that speaks the Arrow PyCapsule
interface (pandas, polars, ...)."""

T = TypeVar("T")

_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 1.0
_SEND_BYTES = 16 << 20
_SEND_ROWS = 1 << 16

# The server gives up a little earlier than the wire, so that its own words come through.
_EARLIER = 0.9

# gRPC itself waits up to two minutes before it connects again; whoever restarts a server does not.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_KINDS: dict[str, type[OnstreamError]] = {
    kind.__name__: kind
    for kind in (RequestError, NotFoundError, AccessError, UnavailableError, DeadlineError)
}


# What may be otherwise a moment later.
_AGAIN = (fl.FlightUnavailableError, fl.FlightCancelledError, StopIteration, UnavailableError)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predictions for some rows, all made by one version of the model.

    Attributes
    ----------
    predictions : dict of str to ndarray of float32
        By label: (rows,), or (rows, classes).
    version : int
    """

    predictions: dict[str, npt.NDArray[np.float32]]
    version: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What the model made of some rows before it learned them.

    Attributes
    ----------
    predictions : dict of str to ndarray of float32
        By label: (rows,), or (rows, classes); NaN where a row was rejected.
    loss : float
        Of the batches in which the rows were learned, other rows of these batches included; NaN if none was.
    position : int
        The offset in the log after the last of the rows.
    examples : int
        How many examples the model had learned after the last of them.
    rejects : dict of int to str
        Why rows were not learned, by row.
    """

    predictions: dict[str, npt.NDArray[np.float32]]
    loss: float
    position: int
    examples: int
    rejects: dict[int, str]


class Client:
    """Send examples to a server, learn from them, and predict.

    Parameters
    ----------
    address : str
        "grpc://HOST:PORT", or "grpc+tls://HOST:PORT".
    model, log : str, optional
        Which model predicts, and which log takes the examples; needed where the server has several.
    writer : str, optional
        A name that stays the same when this program runs again. Then every `send` and `learn` says its own
        `sequence` number, and is done once, however often the program repeats it. Without it, only the
        client's own repeats are done once.
    token : str, optional
    tls_root : path, optional
        PEM file of the authority that signed the server's certificate; the system's by default.
    certificate, key : path, optional
        PEM files of this client, for mutual TLS.
    timeout_s : float
        The longest that a call takes, with all its repeats.

    Notes
    -----
    A call that finds the server unavailable, as while it is restarted, is repeated until `timeout_s`, after
    waits that grow up to one second. All calls may be made from several threads at once.

    All calls raise RequestError (the rows or names are wrong, nothing was done), NotFoundError (there is no such
    model, version or log), AccessError (a token or certificate is missing or wrong), UnavailableError (the server
    could not be reached or was too busy all the time, or failed) and DeadlineError (no answer in time; of rows
    that were sent it is not known whether they are in the log).

    Examples
    --------
    >>> with Client("grpc://127.0.0.1:8815") as client:  # doctest: +SKIP
    ...     client.send([{"user": 7, "item": 3, "click": 1}])
    ...     client.predict({"user": 7, "item": 3}).predictions["click"]
    """

    def __init__(
        self,
        address: str = "grpc://127.0.0.1:8815",
        *,
        model: str | None = None,
        log: str | None = None,
        writer: str | None = None,
        token: str | None = None,
        tls_root: str | Path | None = None,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        if not 0 < timeout_s < math.inf:
            raise RequestError(f"timeout_s must be above 0 and finite, got {timeout_s!r}")
        if (certificate is None) != (key is None):
            raise RequestError("mutual TLS needs both a certificate and its key")
        self.address = address
        self.timeout_s = timeout_s
        self._model = model
        self._log = log
        self._writer = writer
        self._headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        self._lanes = _Lanes()
        files = {"tls_root_certs": tls_root, "cert_chain": certificate, "private_key": key}
        try:
            read = {name: Path(path).read_bytes() for name, path in files.items() if path is not None}
            self._client = fl.FlightClient(address, generic_options=_CHANNEL, **read)
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"cannot connect to {address!r}: {error}") from error

    def predict(
        self, rows: Rows, *, version: int | None = None, timeout_s: float | None = None
    ) -> Prediction:
        """Predict rows by one version of the model, the one that the server uses now unless `version` is given.

        Parameters
        ----------
        rows : rows
            With the columns that the model reads; others are ignored.
        version : int, optional
        timeout_s : float, optional
            In place of the client's.
        """
        batch = _one_batch(rows)

        def ask(left_s: float) -> Prediction:
            command = {
                "verb": "predict",
                "model": self._model,
                "version": version,
                "timeout_s": _EARLIER * left_s,
            }
            answer, facts = self._exchange(command, batch, None, left_s)
            return Prediction(_by_label(answer), facts["version"])

        return self._persist(ask, self._deadline(timeout_s))

    def learn(self, rows: Rows, *, sequence: int | None = None, timeout_s: float | None = None) -> Learned:
        """Learn from rows exactly once, and return what the model predicted for them before.

        Parameters
        ----------
        rows : rows
            With all columns that the job reads, labels included.
        sequence : int, optional
            With a `writer`: the number of this call. A writer's numbers grow.
        timeout_s : float, optional
            In place of the client's.

        Notes
        -----
        The rows are durable in the server's log before the trainer sees them, and in the model's checkpoints
        once; repeats of the client add nothing. Waits for the trainer, so one call a batch of examples is
        better than one call an example. A server that waits for less long than this call is asked again.
        """
        batch = _one_batch(rows)
        with self._numbered(sequence) as (writer, number):

            def ask(left_s: float) -> Learned:
                command = {
                    "verb": "learn",
                    "log": self._log,
                    "writer": writer,
                    "timeout_s": _EARLIER * left_s,
                }
                answer, facts = self._exchange(command, batch, {"sequence": number}, left_s)
                loss = math.nan if facts["loss"] is None else facts["loss"]
                rejects = {int(at): reason for at, reason in facts["rejects"].items()}
                return Learned(_by_label(answer), loss, facts["end"], facts["examples"], rejects)

            return self._persist(ask, self._deadline(timeout_s), early=True)

    def send(
        self,
        rows: Rows,
        *,
        to: str | None = None,
        sequence: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Append rows to a log of the server exactly once; they are durable there when this returns.

        Parameters
        ----------
        rows : rows
            With all columns that the job reads of that log, labels included.
        to : str, optional
            The log, in place of the client's, where a job reads several: impressions and their feedback.
        sequence : int, optional
            With a `writer`: the number of this call. A writer's numbers grow.
        timeout_s : float, optional
            In place of the client's.

        Returns
        -------
        int
            The offset in the log after the last of the rows.

        Notes
        -----
        Rows that take more than 16 MiB, or are more than 65,536, are sent in parts, in order, unless they have a
        sequence number; if such a call fails, the first parts may be there.
        """
        batch = _one_batch(rows)
        deadline = self._deadline(timeout_s)
        pieces = [batch] if sequence is not None else _pieces(batch)
        return [self._send(piece, to or self._log, sequence, deadline) for piece in pieces][-1]

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    @contextmanager
    def _numbered(self, sequence: int | None) -> Iterator[tuple[str, int]]:
        """Give the writer and number of one call, which keeps them however often it is repeated."""
        if (self._writer is None) != (sequence is None):
            raise RequestError(
                "a sequence number needs a writer, Client(writer=...), and a client with a writer needs one a call"
            )
        if self._writer is not None and sequence is not None:
            with self._lanes.own:
                yield self._writer, sequence
            return
        with self._lanes.one() as lane:
            yield lane

    def _send(self, batch: pa.RecordBatch, log: str | None, sequence: int | None, deadline: float) -> int:
        with self._numbered(sequence) as (writer, number):
            return self._persist(lambda left_s: self._put(batch, log, writer, number, left_s), deadline)

    def _put(self, batch: pa.RecordBatch, log: str | None, writer: str, number: int, left_s: float) -> int:
        """Send one batch and return the offset after it."""
        descriptor = fl.FlightDescriptor.for_path(*([] if log is None else [log]))
        stream, acknowledged = self._client.do_put(descriptor, batch.schema, self._options(left_s))
        facts = None
        with _closing(stream):
            stream.write_with_metadata(batch, _json({"writer": writer, "sequence": number}))
            stream.done_writing()
            facts = acknowledged.read()
        if facts is None:
            raise UnavailableError(f"{self.address} gave no acknowledgement")
        return int(json.loads(facts.to_pybytes())["end"])

    def _exchange(
        self,
        command: Mapping[str, Any],
        batch: pa.RecordBatch,
        about: Mapping[str, Any] | None,
        left_s: float,
    ) -> tuple[pa.RecordBatch, dict[str, Any]]:
        """Send one batch and return the answer to it."""
        said = {name: value for name, value in command.items() if value is not None}
        descriptor = fl.FlightDescriptor.for_command(json.dumps(said).encode())
        stream, answers = self._client.do_exchange(descriptor, self._options(left_s))
        with _closing(stream):
            stream.begin(batch.schema)
            if about is None:
                stream.write_batch(batch)
            else:
                stream.write_with_metadata(batch, _json(about))
            stream.done_writing()
            chunk = answers.read_chunk()
        return chunk.data, json.loads(chunk.app_metadata.to_pybytes())

    def _options(self, left_s: float) -> fl.FlightCallOptions:
        return fl.FlightCallOptions(timeout=left_s, headers=self._headers)

    def _deadline(self, timeout_s: float | None) -> float:
        return time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)

    def _persist(self, ask: Callable[[float], T], deadline: float, *, early: bool = False) -> T:
        """Ask until there is an answer, an error that asking again does not mend, or no time left.

        With `early`, this also goes on after a server that gave up before it was asked to.
        """
        wait_s = _FIRST_WAIT_S
        while True:
            began = time.monotonic()
            left_s = max(deadline - began, 0.001)
            try:
                return ask(left_s)
            except (pa.ArrowException, StopIteration, UnavailableError) as error:
                # Many clients of a server that comes back must not come all at once.
                pause_s = wait_s * random.uniform(0.5, 1.0)
                now = time.monotonic()
                gave_up = isinstance(error, fl.FlightTimedOutError) and now < began + _EARLIER * left_s
                again = isinstance(error, _AGAIN) or (early and gave_up)
                if not again or now + pause_s >= deadline:
                    raise _understood(error, self.address) from error
            time.sleep(pause_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


class _Lanes:
    """Writers of a client: each does one call at a time, so that its numbers come in order."""

    def __init__(self) -> None:
        self.own = threading.Lock()
        self._lock = threading.Lock()
        self._free: list[tuple[str, int]] = []

    @contextmanager
    def one(self) -> Iterator[tuple[str, int]]:
        """Give a writer that nobody else uses now, and its next number."""
        with self._lock:
            writer, number = self._free.pop() if self._free else (uuid.uuid4().hex, 0)
        # Whatever becomes of the call, its number may have been used.
        try:
            yield writer, number
        finally:
            with self._lock:
                self._free.append((writer, number + 1))


@contextmanager
def _closing(stream: fl.MetadataRecordBatchWriter) -> Iterator[None]:
    """Close a stream. Its first error counts, which closing tells even where writing only said that it failed."""
    try:
        yield
    except (pa.ArrowException, StopIteration) as error:
        try:
            stream.close()
        except pa.ArrowException as told:
            raise told from error
        raise
    stream.close()


def _understood(error: BaseException, address: str) -> OnstreamError:
    """Return an error of Flight as one of ours."""
    if isinstance(error, OnstreamError):
        return error
    if isinstance(error, StopIteration):
        return UnavailableError(f"{address} ended the stream without an answer")
    try:
        facts = json.loads(getattr(error, "extra_info", b""))
        kind, text = _KINDS.get(facts["error"], UnavailableError), str(facts["message"])
        return kind(f"{address}: {text}")
    except (ValueError, KeyError, TypeError):
        pass
    text = f"{address}: {error}"
    if isinstance(error, fl.FlightTimedOutError):
        return DeadlineError(text)
    if isinstance(error, fl.FlightUnauthenticatedError | fl.FlightUnauthorizedError):
        return AccessError(text)
    if isinstance(error, pa.ArrowInvalid):
        return RequestError(text)
    return UnavailableError(text)


def _one_batch(rows: Rows) -> pa.RecordBatch:
    """Return rows as one record batch."""
    batch = (
        rows
        if isinstance(rows, pa.RecordBatch)
        else _converted([rows] if isinstance(rows, Mapping) else rows)
    )
    if not batch.num_columns:
        raise RequestError("the rows have no columns")
    return batch


def _converted(rows: Rows) -> pa.RecordBatch:
    try:
        if hasattr(rows, "__arrow_c_array__"):
            return pa.record_batch(rows)
        if hasattr(rows, "__arrow_c_stream__"):
            table = pa.table(rows)
        elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            table = pa.Table.from_pylist(list(rows))
        else:
            raise RequestError(
                f"rows are a dict, a list of dicts, a frame or an Arrow table, got {type(rows).__name__}"
            )
        batches = table.combine_chunks().to_batches()
    except (pa.ArrowException, TypeError) as error:
        raise RequestError(f"the rows are no table: {error}") from error
    if len(batches) > 1:
        raise RequestError("the rows are too many for one batch: a column of texts is over 2 GiB; send parts")
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the rows in pieces of about `_SEND_BYTES`, and no more than `_SEND_ROWS`."""
    step = min(_SEND_ROWS, max(1, batch.num_rows // max(1, -(-batch.nbytes // _SEND_BYTES))))
    for first in range(0, max(1, batch.num_rows), step):
        yield batch.slice(first, step)


def _by_label(answer: pa.RecordBatch) -> dict[str, npt.NDArray[np.float32]]:
    """Return the columns of an answer as arrays."""
    found = {}
    for name, column in zip(answer.schema.names, answer.columns, strict=True):
        if pa.types.is_fixed_size_list(column.type):
            found[name] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
        else:
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


def _json(facts: Mapping[str, Any]) -> pa.Buffer:
    return pa.py_buffer(json.dumps(facts).encode())

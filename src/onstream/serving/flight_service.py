"""The calls of Arrow Flight: append, learn, predict, replay."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.flight as fl

from onstream.errors import DeadlineError, NotFoundError, RequestError, UnavailableError
from onstream.serving.access import Access
from onstream.serving.flight_streams import Streams, Until
from onstream.serving.flight_wire import (
    Command,
    Status,
    Ticket,
    command,
    number,
    status_of,
    telling,
    ticket,
    to_json,
)
from onstream.serving.model import Model
from onstream.streams import Log, prediction_columns

__all__ = ["Limits", "Observe", "Service", "TokenCheck"]

Observe: TypeAlias = Callable[[str, str, Status, float, int], None]
"""Told of every batch once it is answered: wire, model or log, status, seconds and rows.

The wire is "flight" for predictions, and then the name is a model's; it is "flight_learn" or "flight_put" for
examples, and then the name is a log's. The rows are 0 unless the batch was answered.
"""

_log = logging.getLogger(__name__)

# Clients in some languages take no message above 4 MiB.
_MESSAGE_BYTES = 2 << 20
_REPLAY_ROWS = 16_384
_NO_END = 2**63 - 1


class Limits:
    """How much one batch, and all streams together, may ask for."""

    def __init__(self, *, max_rows: int, max_bytes: int, max_columns: int, timeout_s: float) -> None:
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.max_columns = max_columns
        self.timeout_s = timeout_s

    def check(self, batch: pa.RecordBatch | None) -> pa.RecordBatch:
        """Return a batch that is as it says and not too large. Raises RequestError."""
        if batch is None:
            raise RequestError("a message without a record batch")
        names = batch.schema.names
        if len(names) > self.max_columns:
            raise RequestError(f"a batch has at most {self.max_columns} columns, got {len(names)}")
        if len(set(names)) < len(names):
            raise RequestError("two columns of the batch have the same name")
        if batch.num_rows > self.max_rows:
            raise RequestError(
                f"a batch has at most {self.max_rows} rows, got {batch.num_rows}; send several"
            )
        size = batch.get_total_buffer_size()
        if size > self.max_bytes:
            raise RequestError(f"a batch takes at most {self.max_bytes} bytes, got {size}; send several")
        try:
            batch.validate(full=True)
        except pa.ArrowException:
            raise RequestError("the record batch is not valid Arrow") from None
        return batch


class TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Let only calls in that bear a token, if one is asked."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self._access = access

    def start_call(self, info: fl.CallInfo, headers: Mapping[str, list[str]]) -> None:
        """Check the header "authorization"."""
        with telling():
            given = [values[0] for name, values in headers.items() if name.lower() == "authorization"]
            self._access.check_bearer(given[0] if given else None)


class Service(fl.FlightServerBase):  # type: ignore[misc]
    """What `FlightServer` does for each call. Runs as soon as it is made."""

    def __init__(
        self,
        location: str,
        models: Mapping[str, Model],
        logs: Mapping[str, Log],
        limits: Limits,
        streams: Streams,
        observe: Observe | None,
        **options: Any,
    ) -> None:
        self._models = models
        self._logs = logs
        self._limits = limits
        self._streams = streams
        self._observe = observe
        super().__init__(location, **options)

    # ------------------------------------------------------------------------------- examples in

    def do_put(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.FlightMetadataWriter,
    ) -> None:
        """Append each batch; acknowledge it once it is durable."""
        with telling(), self._streams.open():
            name, log = self._log_of(descriptor)
            for chunk in _chunks(reader):
                with self._batch("flight_put", name, chunk) as rows:
                    by = number(chunk.app_metadata)
                    made = log.append(rows, writer=by.writer, sequence=by.sequence)
                    facts = {"first": made.first, "end": made.end, "sequence": by.sequence}
                    writer.write(pa.py_buffer(to_json(facts)))

    def do_exchange(
        self,
        context: fl.ServerCallContext,
        descriptor: fl.FlightDescriptor,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.MetadataRecordBatchWriter,
    ) -> None:
        """Answer each batch with predictions; or learn it, and answer with those made before."""
        with telling(), self._streams.open():
            asked = command(descriptor.command or b"")
            if asked.verb == "predict":
                self._predict(asked, reader, writer)
            else:
                self._learn(asked, context, reader, writer)

    def _predict(
        self, asked: Command, reader: fl.MetadataRecordBatchReader, writer: fl.MetadataRecordBatchWriter
    ) -> None:
        name, model = _chosen(self._models, asked.model, "model")
        timeout_s = min(asked.timeout_s or self._limits.timeout_s, self._limits.timeout_s)
        answers = _Answers(writer)
        for chunk in _chunks(reader):
            with self._batch("flight", name, chunk) as rows:
                future = model.predict(rows, version=asked.version, timeout_s=timeout_s)
                try:
                    answer = future.result(timeout_s)
                except DeadlineError:
                    raise
                except TimeoutError:
                    future.cancel()
                    raise DeadlineError(f"no prediction within {timeout_s:g} s") from None
                predictions = prediction_columns(answer.predictions)
                assert predictions.num_rows == rows.num_rows
                answers.write(predictions, {"version": answer.version})

    def _learn(
        self,
        asked: Command,
        context: fl.ServerCallContext,
        reader: fl.MetadataRecordBatchReader,
        writer: fl.MetadataRecordBatchWriter,
    ) -> None:
        name, log = _chosen(self._logs, asked.log, "log")
        timeout_s = min(asked.timeout_s or self._limits.timeout_s, self._limits.timeout_s)
        until = Until(self._streams.ended, gone=context.is_cancelled)
        answers = _Answers(writer)
        for chunk in _chunks(reader):
            with self._batch("flight_learn", name, chunk) as rows:
                if not rows.num_rows:
                    raise RequestError("a batch to learn from has no rows")
                by = number(chunk.app_metadata, asked.writer)
                made = log.append(rows, writer=by.writer, sequence=by.sequence, answer=True)
                answered = log.answers(made.first, made.end, timeout_s=timeout_s, stop=until)
                facts = {
                    "first": made.first,
                    "end": made.end,
                    "sequence": by.sequence,
                    "loss": answered.loss,
                    "examples": answered.examples,
                    "rejects": {str(at): reason for at, reason in answered.rejects.items()},
                }
                answers.write(answered.predictions, facts)

    @contextmanager
    def _batch(self, wire: str, name: str, chunk: fl.FlightStreamChunk) -> Iterator[pa.RecordBatch]:
        """Work on one batch: it is checked, waited for when the server goes away, and told of."""
        began = time.perf_counter()
        status: Status = "internal"
        num_rows = 0
        try:
            with self._streams.work():
                rows = self._limits.check(chunk.data)
                yield rows
            status, num_rows = "ok", rows.num_rows
        except BaseException as error:
            status = status_of(error)
            raise
        finally:
            if self._observe is not None:
                try:
                    self._observe(wire, name, status, time.perf_counter() - began, num_rows)
                except Exception:
                    _log.exception("the observer of requests failed")

    # ------------------------------------------------------------------------------ examples out

    def do_get(self, context: fl.ServerCallContext, asked: fl.Ticket) -> fl.FlightDataStream:
        """Replay a log from an offset."""
        with telling(), ExitStack() as stack:
            stack.enter_context(self._streams.open())
            wanted = ticket(asked.ticket)
            _, log = _chosen(self._logs, wanted.log, "log")
            until = Until(self._streams.draining, gone=context.is_cancelled)
            batches = self._replay(log, wanted, until, stack)
            # The first item is the schema; and a generator that was begun gives its place back when it is dropped.
            schema = next(batches)
            return fl.GeneratorStream(schema, batches)

    def _replay(
        self, log: Log, wanted: Ticket, until: Until, held: ExitStack
    ) -> Iterator[pa.Schema | tuple[pa.RecordBatch, pa.Buffer]]:
        """Yield the schema, then batches with where to read on after each."""
        first, end = log.first, log.end
        at = first if wanted.first is None else wanted.first
        if not first <= at <= end:
            raise RequestError(f"the log has rows {first} to {end}; it cannot be replayed from {at}")
        until_row = wanted.end if wanted.end is not None else _NO_END
        schema: pa.Schema | None = None
        with telling(), held.pop_all():
            stored = log.replay(follow=wanted.follow).read({"log": at}, max_rows=_REPLAY_ROWS, stop=until)
            while at < until_row and (chunk := next(stored, None)) is not None:
                if chunk.rejects:
                    raise RequestError(
                        f"rows {at} to {chunk.next} cannot be read: {chunk.rejects[0].reason}; "
                        f"ask for those before and after them"
                    )
                rows = chunk.batch.slice(0, until_row - at)
                if schema is None:
                    schema = rows.schema
                    yield schema
                elif not rows.schema.equals(schema):
                    raise RequestError(
                        f"from row {at} on the columns are others: ask for the rows up to there, and from there on"
                    )
                for piece in _small(rows):
                    at += piece.num_rows
                    yield piece, pa.py_buffer(to_json({"next": at}))
            self._streams.check()
            if schema is None:
                yield log.schema()

    # --------------------------------------------------------------------------------- what is there

    def list_flights(self, context: fl.ServerCallContext, criteria: bytes) -> list[fl.FlightInfo]:
        """Return the logs; with criteria, the one of that name."""
        with telling():
            wanted = criteria.decode("utf-8", "replace")
            return [self._info(name, log) for name, log in self._logs.items() if wanted in ("", name)]

    def get_flight_info(
        self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor
    ) -> fl.FlightInfo:
        """Return the columns of a log, how many rows it has, and the ticket for all of them."""
        with telling():
            return self._info(*self._log_of(descriptor))

    def get_schema(self, context: fl.ServerCallContext, descriptor: fl.FlightDescriptor) -> fl.SchemaResult:
        """Return the columns of the newest batch of a log; none if there is no such log.

        This is the one call whose errors Flight cannot tell without their traceback; `get_flight_info` says
        what is wrong.
        """
        try:
            return fl.SchemaResult(self._log_of(descriptor)[1].schema())
        except BaseException as error:
            _log.info("the schema of a log was not found", exc_info=error)
            return fl.SchemaResult(pa.schema([]))

    def list_actions(self, context: fl.ServerCallContext) -> list[tuple[str, str]]:
        """Return the only action."""
        return [("health", "which models and logs are there, and whether each model is ready")]

    def do_action(self, context: fl.ServerCallContext, action: fl.Action) -> Iterator[bytes]:
        """Return the health as JSON."""
        with telling():
            if action.type != "health":
                raise RequestError("the only action is 'health'")
            return iter([json.dumps(self._health()).encode()])

    def _health(self) -> dict[str, Any]:
        models = {}
        for name, model in self._models.items():
            reason = model.not_ready()
            models[name] = {"ready": reason is None, "reason": reason, "versions": list(model.versions())}
        logs = {name: {"first": log.first, "end": log.end} for name, log in self._logs.items()}
        return {"live": not self._streams.draining.is_set(), "models": models, "logs": logs}

    def _info(self, name: str, log: Log) -> fl.FlightInfo:
        first, end = log.first, log.end
        place = fl.Ticket(to_json({"log": name, "from": first, "to": end}))
        descriptor = fl.FlightDescriptor.for_path(name)
        return fl.FlightInfo(log.schema(), descriptor, [fl.FlightEndpoint(place, [])], end - first, -1)

    def _log_of(self, descriptor: fl.FlightDescriptor) -> tuple[str, Log]:
        """Return the log that a descriptor's path names."""
        if descriptor.command:
            raise RequestError("the descriptor of a log is a path: the log's name, or nothing")
        path = [part.decode("utf-8", "replace") for part in descriptor.path or []]
        if len(path) > 1:
            raise RequestError(f"the path of a log is its name alone, got {len(path)} parts")
        return _chosen(self._logs, path[0] if path else "", "log")


class _Answers:
    """Batches out, whose columns stay the same for the whole stream."""

    def __init__(self, writer: fl.MetadataRecordBatchWriter) -> None:
        self._writer = writer
        self._schema: pa.Schema | None = None

    def write(self, answer: pa.RecordBatch, facts: dict[str, Any]) -> None:
        if self._schema is None:
            self._schema = answer.schema
            self._writer.begin(answer.schema)
        elif not answer.schema.equals(self._schema):
            raise UnavailableError("the labels of the model have changed; open another stream")
        self._writer.write_with_metadata(answer, pa.py_buffer(to_json(facts)))


_T = TypeVar("_T")


def _chosen(those: Mapping[str, _T], name: str, what: str) -> tuple[str, _T]:
    """Return what has a name; without one, the only one there is."""
    if not name and len(those) == 1:
        name = next(iter(those))
    if not name and those:
        raise NotFoundError(f"say which {what}: there are {len(those)}")
    if name not in those:
        raise NotFoundError(f"there is no {what} {name[:200]!r}" if name else f"this server has no {what}")
    return name, those[name]


def _chunks(reader: fl.MetadataRecordBatchReader) -> Iterator[fl.FlightStreamChunk]:
    """Yield the messages of a stream."""
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            return
        except fl.FlightError as error:
            raise UnavailableError("the client went away") from error
        except Exception:  # of many kinds, as bytes can be wrong in many ways
            raise RequestError("the stream is not valid Arrow") from None
        yield chunk


def _small(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield the rows in pieces of about `_MESSAGE_BYTES`."""
    step = max(1, rows.num_rows // max(1, -(-rows.nbytes // _MESSAGE_BYTES)))
    for first in range(0, rows.num_rows, step):
        yield rows.slice(first, step)

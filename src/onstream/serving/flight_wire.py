"""What Flight requests say, and how errors are told to Flight clients."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.flight as fl

from onstream.errors import (
    AccessError,
    ColumnError,
    DeadlineError,
    NotFoundError,
    OnstreamError,
    RequestError,
    ShapeError,
    UnavailableError,
)

__all__ = [
    "Command",
    "Number",
    "Status",
    "Ticket",
    "command",
    "flight_error",
    "number",
    "status_of",
    "telling",
    "ticket",
    "to_json",
]

Status: TypeAlias = Literal[
    "ok", "invalid", "unauthenticated", "not_found", "unavailable", "deadline", "internal"
]

_log = logging.getLogger(__name__)

_JSON_BYTES = 65_536
_NAME_CHARACTERS = 200
_LARGEST = 2**63 - 1

# Error texts travel three times over in headers, of which gRPC takes 8 KiB, with up to 6 bytes a character.
_TEXT_CHARACTERS = 400

# What is raised, what clients get, and the status. Flight has no error of its own for a bad request: gRPC says
# UNKNOWN. The built-in errors that pyarrow turns into INVALID_ARGUMENT and NOT_FOUND carry the traceback along.
_TOLD: tuple[
    tuple[tuple[type[OnstreamError], ...], type[OnstreamError], type[fl.FlightError], Status], ...
] = (
    ((RequestError, ColumnError, ShapeError), RequestError, fl.FlightServerError, "invalid"),
    ((NotFoundError,), NotFoundError, fl.FlightServerError, "not_found"),
    ((AccessError,), AccessError, fl.FlightUnauthenticatedError, "unauthenticated"),
    ((UnavailableError,), UnavailableError, fl.FlightUnavailableError, "unavailable"),
    ((DeadlineError,), DeadlineError, fl.FlightTimedOutError, "deadline"),
)


@dataclass(frozen=True, slots=True)
class Command:
    """What an exchange is for. Names are "" where the request leaves them out."""

    verb: Literal["predict", "learn"]
    model: str = ""
    log: str = ""
    writer: str = ""
    version: int | None = None
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which rows of a log to replay: from `first` or where the log begins, up to `end` or where it ends."""

    log: str
    first: int | None
    end: int | None
    follow: bool


@dataclass(frozen=True, slots=True)
class Number:
    """Whose append a batch is, and the how manieth; no writer, no number."""

    writer: str = ""
    sequence: int | None = None


def command(raw: bytes) -> Command:
    """Return what the descriptor of an exchange says. Raises RequestError."""
    facts = _object(raw, "the command")
    verb = facts.pop("verb", None)
    if verb == "predict":
        made = Command(
            "predict",
            model=_name(facts, "model"),
            version=_whole(facts, "version"),
            timeout_s=_seconds(facts, "timeout_s"),
        )
    elif verb == "learn":
        made = Command(
            "learn",
            log=_name(facts, "log"),
            writer=_name(facts, "writer"),
            timeout_s=_seconds(facts, "timeout_s"),
        )
    else:
        raise RequestError("the command of an exchange has a \"verb\", which is 'predict' or 'learn'")
    _nothing_left(facts, f"a command to {verb}")
    return made


def ticket(raw: bytes) -> Ticket:
    """Return what a ticket says. Raises RequestError."""
    facts = _object(raw, "the ticket")
    follow = facts.pop("follow", False)
    if type(follow) is not bool:
        raise RequestError('"follow" must be true or false')
    made = Ticket(_name(facts, "log"), _whole(facts, "from"), _whole(facts, "to"), follow)
    _nothing_left(facts, "a ticket")
    if made.first is not None and made.end is not None and made.end < made.first:
        raise RequestError(f'"to" must not be before "from", got {made.end} and {made.first}')
    return made


def number(metadata: pa.Buffer | None, writer: str = "") -> Number:
    """Return whose append a batch is, from its metadata and the writer of its stream. Raises RequestError."""
    raw = b"{}" if metadata is None or metadata.size == 0 else metadata.to_pybytes()
    facts = _object(raw, "the metadata of a batch")
    made = Number(_name(facts, "writer") or writer, _whole(facts, "sequence"))
    _nothing_left(facts, "the metadata of a batch")
    if bool(made.writer) != (made.sequence is not None):
        raise RequestError("a sequence number needs a writer, and a writer needs a sequence number")
    return made


def to_json(facts: dict[str, Any]) -> bytes:
    """Return facts as JSON that any reader takes: what is not finite becomes null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    return json.dumps(plain, allow_nan=False).encode()


def status_of(error: BaseException) -> Status:
    """Return the status that an error ends a request with."""
    return next((told[3] for told in _TOLD if isinstance(error, told[0])), "internal")


def flight_error(error: BaseException) -> fl.FlightError:
    """Return what a client is told of an error; one that no client can cause is logged, and told as only that.

    The extra info is JSON: the kind of error, and its message as it is.
    """
    for kinds, kind, made, _ in _TOLD:
        if isinstance(error, kinds):
            text = str(error).encode("utf-8", "replace").decode()
            if len(text) > _TEXT_CHARACTERS:
                text = f"{text[:_TEXT_CHARACTERS]}..."
            return made(text, json.dumps({"error": kind.__name__, "message": text}).encode())
    _log.error("a Flight request failed", exc_info=error)
    text = "internal error; the server's log says more"
    return fl.FlightInternalError(text, json.dumps({"error": "InternalError", "message": text}).encode())


@contextmanager
def telling() -> Iterator[None]:
    """Turn whatever is raised into an error for the client: any other error would take the traceback along."""
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as error:
        told = error if isinstance(error, fl.FlightError) else flight_error(error)
    else:
        return
    raise told


def _object(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object."""
    if len(raw) > _JSON_BYTES:
        raise RequestError(f"{what} is a JSON object of at most {_JSON_BYTES} bytes, got {len(raw)}")
    try:
        facts = json.loads(raw)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise RequestError(f"{what} must be a JSON object in UTF-8")
    return facts


def _name(facts: dict[str, Any], key: str) -> str:
    name = facts.pop(key, None)
    if name is None:
        return ""
    if not isinstance(name, str) or not name or len(name) > _NAME_CHARACTERS or not name.isprintable():
        raise RequestError(f'"{key}" must be a text of 1 to {_NAME_CHARACTERS} printable characters')
    return name


def _whole(facts: dict[str, Any], key: str) -> int | None:
    value = facts.pop(key, None)
    if value is not None and (type(value) is not int or not 0 <= value <= _LARGEST):
        raise RequestError(f'"{key}" must be a whole number from 0 to {_LARGEST}')
    return value


def _seconds(facts: dict[str, Any], key: str) -> float | None:
    value = facts.pop(key, None)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value <= _LARGEST:
        raise RequestError(f'"{key}" must be a number of seconds above 0')
    return float(value)


def _nothing_left(facts: dict[str, Any], what: str) -> None:
    if facts:
        unknown = sorted(facts)[0][:_NAME_CHARACTERS]
        raise RequestError(f"{what} has no field {unknown!r}")

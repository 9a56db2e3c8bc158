"""Where the schemas of framed messages are found: a mapping, a directory, or a schema registry over HTTP."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from onstream.errors import JobError, StreamError
from onstream.streams.formats.avro_schema import SchemaText

__all__ = ["HttpRegistry", "Registered", "Registry", "RegistryLike", "open_registry", "unframed"]

Registered: TypeAlias = tuple[SchemaText, tuple[SchemaText, ...]]
"""A schema, and those whose names it uses."""

RegistryLike: TypeAlias = Mapping[int, SchemaText] | str | os.PathLike[str]

_MAGIC = 0
_HEAD_BYTES = 5

_TIMEOUT_S = 10.0
_PAUSES_S = (0.2, 1.0)
_MAX_ANSWER_BYTES = 8 << 20
_MAX_REFERENCES = 100

# Ids that nobody registered are remembered for a while, since damaged messages can hold any.
_MAX_UNKNOWN = 10_000
_UNKNOWN_S = 60.0


def unframed(message: bytes) -> tuple[int, bytes] | None:
    """Return the schema's id and the rest of a framed message; None if it is not framed.

    References
    ----------
    https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html, "Wire format".
    """
    if len(message) < _HEAD_BYTES or message[0] != _MAGIC:
        return None
    return int.from_bytes(message[1:_HEAD_BYTES], "big"), message[_HEAD_BYTES:]


class Registry(Protocol):
    """Where schemas are found by id."""

    def find(self, id: int) -> Registered | None:
        """Return the schema of an id; None if there is none. Raises StreamError if that cannot be told now."""


def open_registry(given: RegistryLike) -> Registry:
    """Return a registry: of a mapping, of a URL, or of a directory with files such as ``17.avsc``."""
    if isinstance(given, Mapping):
        return _Given(dict(given))
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        return HttpRegistry(given)
    path = Path(given)
    if not path.is_dir():
        raise JobError(f"registry must be a mapping, a URL or a directory, got {str(given)!r}")
    return _Directory(path)


class _Given:
    def __init__(self, schemas: dict[int, SchemaText]) -> None:
        self._schemas = schemas

    def find(self, id: int) -> Registered | None:
        schema = self._schemas.get(id)
        return None if schema is None else (schema, ())


class _Directory:
    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, id: int) -> Registered | None:
        try:
            return (self._path / f"{id}.avsc").read_bytes(), ()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StreamError(f"cannot read schema {id} in {str(self._path)!r}: {error}") from error


class HttpRegistry:
    """A registry with the REST interface of Confluent's.

    Parameters
    ----------
    url : str
        Its root, with user and password if it wants these: ``https://user:password@host:8081``.

    Notes
    -----
    Each schema is asked for once, one that is not there again after a minute. A registry that does not answer is
    asked three times.
    """

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        if not parts.hostname:
            raise JobError("registry: the URL has no host")
        host = parts.netloc.rpartition("@")[2]
        self._root = urllib.parse.urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if parts.username is not None:
            user = urllib.parse.unquote(parts.username)
            password = urllib.parse.unquote(parts.password or "")
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._lock = threading.Lock()
        self._found: dict[int, Registered] = {}
        self._unknown: dict[int, float] = {}

    def find(self, id: int) -> Registered | None:
        """Return the schema of an id; None if there is none. Raises StreamError if the registry does not answer."""
        with self._lock:
            if id in self._found:
                return self._found[id]
            if time.monotonic() < self._unknown.get(id, 0.0):
                return None
            answer = self._ask(f"/schemas/ids/{id}")
            if answer is None:
                if len(self._unknown) >= _MAX_UNKNOWN:
                    self._unknown.clear()
                self._unknown[id] = time.monotonic() + _UNKNOWN_S
                return None
            known: dict[tuple[str, Any], SchemaText] = {}
            self._refer(answer, known)
            self._found[id] = str(answer.get("schema")), tuple(known.values())
            return self._found[id]

    def _refer(self, answer: dict[str, Any], known: dict[tuple[str, Any], SchemaText]) -> None:
        """Ask for all schemas whose names a schema uses; those that others use come first."""
        for reference in answer.get("references") or ():
            subject, version = str(reference.get("subject")), reference.get("version")
            if (subject, version) in known:
                continue
            if len(known) >= _MAX_REFERENCES:
                raise StreamError(
                    f"schema registry {self._root}: a schema uses more than {_MAX_REFERENCES} others"
                )
            path = f"/subjects/{urllib.parse.quote(subject, safe='')}/versions/{version}"
            other = self._ask(path)
            if other is None:
                raise StreamError(f"schema registry {self._root}: there is no {path}, which a schema uses")
            # Taken out again, so that it stands behind what it uses; a circle ends at itself.
            known[subject, version] = str(other.get("schema"))
            self._refer(other, known)
            known[subject, version] = known.pop((subject, version))

    def _ask(self, path: str) -> dict[str, Any] | None:
        """Return what the registry answers; None if there is no such thing."""
        for pause in (*_PAUSES_S, None):
            try:
                request = urllib.request.Request(self._root + path, headers=self._headers)
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
                    answer = json.loads(response.read(_MAX_ANSWER_BYTES))
                if isinstance(answer, dict):
                    return answer
                problem: Exception = ValueError("what it answers is no JSON object")
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 404:
                        return None
                    problem = error
                    if error.code < 500:
                        break
            except (OSError, ValueError) as error:
                problem = error
            if pause is not None:
                time.sleep(pause)
        raise StreamError(f"schema registry {self._root}{path} does not answer: {problem}") from problem

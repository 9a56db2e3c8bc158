"""What the tests of Flight share: a model, servers, requests as any Flight client would make them."""

import json
import subprocess
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from onstream.contracts import Label
from onstream.errors import NotFoundError, RequestError
from onstream.serving.flight import FlightServer
from onstream.serving.model import Answer, Input, Signature
from onstream.streams import Log

FORBIDDEN = ("Traceback", 'File "', ".py", "site-packages", "/home", "/tmp", "/work", "onstream.", "pyarrow/")
"""What no text that reaches a client may hold."""


class Linear:
    """A model: `y` is 2 x + bias of the version, `kind` has three classes. With `hold`, answers wait."""

    def __init__(self, name="linear", hold=False):
        self.name = name
        self.hold = hold
        self.held: list[tuple[Future, Answer]] = []
        self.broken: Exception | None = None

    def signature(self):
        return Signature((Input("x", ("number",)),), (Label("y", "real"), Label("kind", "class", 3)))

    def versions(self):
        return (7, 6)

    def not_ready(self):
        return None

    def predict(self, rows, *, version=None, timeout_s=None):
        if self.broken is not None:
            raise self.broken
        if "x" not in rows.schema.names:
            raise RequestError("column 'x' is missing")
        version = 7 if version is None else version
        if version not in self.versions():
            raise NotFoundError(f"version {version} is not loaded")
        try:
            x = np.asarray(rows["x"].cast(pa.float32()).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            raise RequestError("column 'x' must be a number") from None
        answer = Answer({"y": 2 * x + version, "kind": np.stack([x, x + 1, x + 2], 1)}, version)
        future: Future[Answer] = Future()
        if self.hold:
            self.held.append((future, answer))
        else:
            future.set_result(answer)
        return future

    def release(self):
        for future, answer in self.held:
            future.set_result(answer)


@contextmanager
def served(path: Path, *, models=None, logs=("events",), **options):
    """A server of a linear model and of logs, by name."""
    models = {"linear": Linear()} if models is None else models
    opened = {name: Log(path / f"{name}.db") for name in logs}
    with FlightServer(models, opened, **{"port": 0} | options) as server:
        server.logs = opened
        yield server
    for log in opened.values():
        log.close()


def connect(server, **options):
    return fl.connect(server.address, **options)


def rows(*x):
    return pa.record_batch({"x": pa.array(x, pa.float64())})


def put(client, *batches, path=(), metadata=None, options=None):
    """Send batches and return what acknowledges each."""
    stream, reader = client.do_put(
        fl.FlightDescriptor.for_path(*path), batches[0].schema, options or fl.FlightCallOptions()
    )
    acknowledged = []
    try:
        for i, batch in enumerate(batches):
            if metadata is None:
                stream.write_batch(batch)
            else:
                stream.write_with_metadata(batch, as_bytes(metadata[i]))
            acknowledged.append(json.loads(reader.read().to_pybytes()))
        stream.done_writing()
    finally:
        stream.close()
    return acknowledged


def exchange(client, command, *batches, metadata=None, options=None):
    """Send batches and return the answer to each, with its metadata."""
    descriptor = fl.FlightDescriptor.for_command(as_bytes(command))
    stream, reader = client.do_exchange(descriptor, options or fl.FlightCallOptions())
    answers = []
    try:
        stream.begin(batches[0].schema)
        for i, batch in enumerate(batches):
            if metadata is None:
                stream.write_batch(batch)
            else:
                stream.write_with_metadata(batch, as_bytes(metadata[i]))
            chunk = reader.read_chunk()
            answers.append((chunk.data, json.loads(chunk.app_metadata.to_pybytes())))
        stream.done_writing()
    finally:
        stream.close()
    return answers


def replay(client, **ticket):
    return client.do_get(fl.Ticket(json.dumps(ticket).encode()))


def as_bytes(said):
    return said if isinstance(said, bytes) else json.dumps(said).encode()


def failure(call, *arguments, **options):
    """Return the error that a call ends with, having looked that it tells no secrets."""
    try:
        made = call(*arguments, **options)
    except (pa.ArrowException, fl.FlightError) as error:
        text = str(error) + repr(getattr(error, "extra_info", b""))
        assert not [word for word in FORBIDDEN if word in text], text
        return error
    raise AssertionError(f"no error, but {made!r}")


def certificates(folder: Path) -> dict[str, Path]:
    """Make an authority, and certificates that it signed, for localhost and for a client."""

    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    made = {
        name: folder / name
        for name in ("ca.pem", "ca.key", "server.pem", "server.key", "client.pem", "client.key")
    }
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(*new, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", made["ca.key"], "-out", made["ca.pem"])
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for who in ("server", "client"):
        request = folder / f"{who}.csr"
        openssl(*new, "-subj", f"/CN={who}", "-keyout", made[f"{who}.key"], "-out", request)
        signing = ("-CA", made["ca.pem"], "-CAkey", made["ca.key"], "-CAcreateserial", "-days", "2")
        out = ("-extfile", extensions, "-out", made[f"{who}.pem"])
        openssl("x509", "-req", "-in", request, *signing, *out)
    return made

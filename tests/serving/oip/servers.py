"""Real servers of the wires, on a port of this machine, each in a thread with a loop of its own."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field

import grpc
import uvicorn

from onstream.serving.access import Access
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.rest import rest_app
from onstream.serving.oip.rpc import rpc_handlers, rpc_options

OPEN = Access()


@dataclass
class Seen:
    """What the observer of a server was told."""

    calls: list = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, *call) -> None:
        with self.changed:
            self.calls.append(call)
            self.changed.notify_all()

    def wait(self, after: int, status: str) -> tuple:
        """Return the first call with a status, once there is one, leaving out those `after` had been."""
        with self.changed:
            assert self.changed.wait_for(lambda: any(c[2] == status for c in self.calls[after:]), 30)
            return next(call for call in self.calls[after:] if call[2] == status)


@dataclass(frozen=True)
class Address:
    port: int
    seen: Seen = field(repr=False)
    models: MutableMapping

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def rest_server(
    models: MutableMapping, access: Access = OPEN, limits: Limits | None = None
) -> Iterator[Address]:
    """Serve REST with uvicorn, as the command does."""
    seen = Seen()
    app = rest_app(models, access, limits, observe=seen)
    tls = {"ssl_certfile": access.certificate, "ssl_keyfile": access.key} if access.tls else {}
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="error", access_log=False, **tls)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Address(listener.getsockname()[1], seen, models)
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@contextlib.contextmanager
def rpc_server(
    models: MutableMapping, access: Access = OPEN, limits: Limits | None = None
) -> Iterator[Address]:
    """Serve gRPC."""
    seen = Seen()
    loop = asyncio.new_event_loop()
    ports: list[int] = []
    stop = asyncio.Event()
    bound = threading.Event()

    async def serve() -> None:
        server = grpc.aio.server(options=rpc_options(limits))
        server.add_generic_rpc_handlers(rpc_handlers(models, access, limits, observe=seen))
        if access.certificate and access.key:
            pair = (access.key.read_bytes(), access.certificate.read_bytes())
            credentials = grpc.ssl_server_credentials([pair])
            ports.append(server.add_secure_port("127.0.0.1:0", credentials))
        else:
            ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        bound.set()
        await stop.wait()
        await server.stop(1)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert bound.wait(30)
    try:
        yield Address(ports[0], seen, models)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        assert not thread.is_alive()
        loop.close()

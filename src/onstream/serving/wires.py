"""The three wires of a server: opened together, ended together."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from onstream.errors import AccessError, JobError, MissingExtraError
from onstream.serving.access import Access
from onstream.serving.flight import FlightServer
from onstream.serving.metrics import CONTENT_TYPE
from onstream.serving.model import Model
from onstream.serving.oip.limits import Limits
from onstream.serving.oip.rest import App, Receive, Scope, Send, rest_app
from onstream.serving.oip.rpc import rpc_handlers, rpc_options
from onstream.serving.ports import listen
from onstream.serving.settings import ServerSettings
from onstream.streams import Log

try:
    import grpc
    import httptools  # noqa: F401
    import uvicorn
except ImportError as error:
    raise MissingExtraError("serving needs more libraries: pip install 'onstream[serving]'") from error

__all__ = ["Addresses", "Observe", "Wires", "in_thread"]

T = TypeVar("T")

Observe = Callable[[str, str, Any, float, int], None]
"""Told of every request: wire, model or log, status, seconds and rows."""

# A client's idle connection is kept this long, longer than the usual 60 s of proxies, so that none sends a
# request into a connection that is being closed.
_KEEP_ALIVE_S = 75
# What closing connections may take once all that was begun is answered.
_CLOSE_S = 2.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server listens; None for a wire that is off."""

    rest: str | None
    grpc: str | None
    flight: str | None


class Wires:
    """REST, gRPC and Flight before the same models.

    Parameters
    ----------
    settings : ServerSettings
    access : Access
    limits : Limits
        Of one request, over any wire. Flight names no inputs.
    """

    def __init__(self, settings: ServerSettings, access: Access, limits: Limits) -> None:
        """Open nothing yet."""
        self._settings = settings
        self._access = access
        self._limits = limits
        self._socket: socket.socket | None = None
        self._rest: _Rest | None = None
        self._rest_task: asyncio.Task[None] | None = None
        self._grpc: Any = None
        self._grpc_port = 0
        self._flight: FlightServer | None = None

    async def open(
        self,
        models: Mapping[str, Model],
        logs: Mapping[str, Log],
        render: Callable[[], bytes],
        observe: Observe,
    ) -> Addresses:
        """Listen on all wires that are on, and answer; `render` gives the metrics.

        Raises
        ------
        JobError
            If an address cannot be used, or a certificate cannot be read; no wire is open then.
        """
        settings = self._settings
        # Unless it is one of several, no other server may share its ports, which gRPC would let it without a word.
        shared = settings.member is not None
        try:
            if settings.rest_port is not None:
                self._socket = listen("REST", settings.host, settings.rest_port, shared=shared)
                app = rest_app(models, self._access, self._limits, observe=observe)
                self._rest = _rest(_with_metrics(app, render, self._access), self._access)
            if settings.grpc_port is not None:
                options = [*rpc_options(self._limits), ("grpc.so_reuseport", int(shared))]
                self._grpc = grpc.aio.server(options=options)
                handlers = rpc_handlers(models, self._access, self._limits, observe=observe)
                self._grpc.add_generic_rpc_handlers(handlers)
                self._grpc_port = _add_port(self._grpc, settings.host, settings.grpc_port, self._access)
            if settings.flight_port is not None:
                self._flight = FlightServer(
                    models,
                    logs,
                    host=settings.host,
                    port=settings.flight_port,
                    access=self._access,
                    max_rows=self._limits.max_rows,
                    max_bytes=self._limits.max_body_bytes,
                    timeout_s=self._limits.timeout_s,
                    observe=observe,
                )
            if self._grpc is not None:
                await self._grpc.start()
            if self._rest is not None and self._socket is not None:
                self._rest_task = asyncio.create_task(self._rest.serve([self._socket]))
        except BaseException:
            await self.close(0)
            raise
        return self._addresses()

    async def close(self, bound_s: float) -> bool:
        """Begin nothing new, finish what was begun within `bound_s`, then end all streams and connections.

        Returns
        -------
        bool
            Whether all that was begun was finished. Closing again does nothing.
        """
        ending = [self.close_flight(bound_s)]
        if self._grpc is not None:
            ending.append(self._close_grpc(bound_s))
        if self._rest is not None:
            ending.append(self._close_rest(self._rest, bound_s))
        ended = await asyncio.gather(*ending)
        if self._socket is not None:
            self._socket.close()
        return all(ended)

    async def close_flight(self, bound_s: float) -> bool:
        """Do so with Flight only."""
        flight = self._flight
        return flight is None or await in_thread(lambda: flight.shutdown(bound_s))

    def _addresses(self) -> Addresses:
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        scheme = "https" if self._access.tls else "http"
        rest_port = self._socket.getsockname()[1] if self._socket is not None else 0
        return Addresses(
            rest=f"{scheme}://{host}:{rest_port}" if self._socket is not None else None,
            grpc=f"{host}:{self._grpc_port}" if self._grpc is not None else None,
            flight=self._flight.address if self._flight is not None else None,
        )

    async def _close_grpc(self, bound_s: float) -> bool:
        await self._grpc.stop(bound_s)
        return True

    async def _close_rest(self, rest: _Rest, bound_s: float) -> bool:
        rest.should_exit = True
        if self._rest_task is None:
            return True
        # It looks only every tenth of a second whether it should exit.
        done, _ = await asyncio.wait([self._rest_task], timeout=max(bound_s, _CLOSE_S))
        if not done:
            rest.force_exit = True
            for connection in list(rest.server_state.connections):
                connection.transport.abort()
            await asyncio.wait([self._rest_task], timeout=_CLOSE_S)
        return bool(done)


async def in_thread(work: Callable[[], T]) -> T:
    """Run something that blocks in a thread that does not keep the process alive."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, failed = None, None
        try:
            value = work()
        except Exception as error:
            failed = error
        # A loop that is closed has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, value, failed)

    threading.Thread(target=run, name="onstream-blocking", daemon=True).start()
    return await done


class _Rest(uvicorn.Server):
    """uvicorn's server, without a hand on the signals of the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _rest(app: App, access: Access) -> _Rest:
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ssl_certfile=access.certificate,
        ssl_keyfile=access.key,
        ssl_ca_certs=str(access.client_ca) if access.client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if access.client_ca else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as error:
        raise JobError(f"the certificate or key cannot be used: {error}") from error
    return _Rest(config)


def _add_port(server: Any, host: str, port: int, access: Access) -> int:
    address = f"{f'[{host}]' if ':' in host else host}:{port}"
    try:
        if not access.tls:
            return int(server.add_insecure_port(address))
        assert access.certificate is not None
        assert access.key is not None
        pair = (Path(access.key).read_bytes(), Path(access.certificate).read_bytes())
        authority = Path(access.client_ca).read_bytes() if access.client_ca else None
        credentials = grpc.ssl_server_credentials(
            [pair], authority, require_client_auth=authority is not None
        )
        return int(server.add_secure_port(address, credentials))
    except (RuntimeError, OSError) as error:
        raise JobError(
            f"cannot serve gRPC at {address}: the address is in use, or not of this machine"
        ) from error


def _with_metrics(app: App, render: Callable[[], bytes], access: Access) -> App:
    """Return the application, which also answers GET /metrics to who bears a token, if one is asked."""

    async def either(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/metrics":
            await app(scope, receive, send)
            return
        status, kind = 200, CONTENT_TYPE
        try:
            access.check_bearer(dict(scope["headers"]).get(b"authorization"))
            # Written off the loop: with many labels it takes milliseconds.
            body = await in_thread(render)
        except AccessError as error:
            status, kind, body = 401, "text/plain; charset=utf-8", str(error).encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return either

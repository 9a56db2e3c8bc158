"""The Flight server: examples in, learned and replayed, and predictions, over Arrow Flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.flight as fl

from onstream.errors import JobError
from onstream.serving.access import Access
from onstream.serving.flight_service import Limits, Observe, Service, TokenCheck
from onstream.serving.flight_streams import Streams, cut_connections
from onstream.serving.model import Model
from onstream.streams import Log

__all__ = ["FlightServer"]

# How long connections that were cut may take to be noticed.
_CUT_S = 5.0


class FlightServer:
    """Append examples to logs, learn from them, predict and replay, over Arrow Flight.

    Parameters
    ----------
    models : mapping of str to Model
        Looked at for each stream: what is added or removed is seen at once.
    logs : mapping of str to Log
    host : str
    port : int
        0 takes a free one.
    access : Access, optional
    max_rows, max_bytes, max_columns : int
        Of one batch; a larger one is refused.
    max_streams : int
        Open streams, each of which holds a thread; one more is refused at once.
    timeout_s : float
        The longest that a batch may wait for its predictions, or for the trainer. A request may ask for less.
    observe : callable, optional
        See `Observe`. What it raises is logged and changes no answer.

    Raises
    ------
    JobError
        If others could reach the address unasked, the address cannot be used, or a limit is out of range.

    Notes
    -----
    It serves as soon as it is made, in threads of its own, until `shutdown`. It does not close the logs.

    What clients send and get is in docs/flight.md. An error ends its stream; batches that were answered before
    it are done, and those behind it were not looked at. No error carries a traceback or a path.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        logs: Mapping[str, Log],
        *,
        host: str = "127.0.0.1",
        port: int = 8815,
        access: Access | None = None,
        max_rows: int = 1 << 20,
        max_bytes: int = 64 << 20,
        max_columns: int = 4_096,
        max_streams: int = 256,
        timeout_s: float = 30.0,
        observe: Observe | None = None,
    ) -> None:
        access = access or Access()
        access.check_host(host)
        limits = {"max_rows": max_rows, "max_bytes": max_bytes, "max_columns": max_columns}
        for name, limit in {**limits, "max_streams": max_streams, "timeout_s": timeout_s}.items():
            if not 0 < limit < 2**63:
                raise JobError(f"{name} must be above 0, got {limit!r}")
        self.host = host
        self._streams = Streams(max_streams)
        self._tls = access.tls
        self._closing: threading.Thread | None = None
        scheme = "grpc+tls" if access.tls else "grpc"
        self._location = f"{scheme}://{f'[{host}]' if ':' in host else host}"
        try:
            self._service = Service(
                f"{self._location}:{port}",
                models,
                logs,
                Limits(**limits, timeout_s=timeout_s),
                self._streams,
                observe,
                middleware={"token": TokenCheck(access)},
                **_tls(access),
            )
        except (pa.ArrowException, OSError) as error:
            raise JobError(f"cannot serve Flight at {host}:{port}: {error}") from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._service.port)

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"{self._location}:{self.port}"

    def shutdown(self, bound_s: float = 10.0) -> bool:
        """Stop: begin nothing new, finish the batches in work within `bound_s`, then close all streams.

        Returns
        -------
        bool
            Whether all batches in work were finished.

        Notes
        -----
        Returns within some seconds after `bound_s`, whatever clients do: connections of streams that are open
        then, also of those that only wait for their next message, are cut, which clients see as UNAVAILABLE.
        Repeated calls do nothing.
        """
        if self._closing is not None:
            return True
        port = self.port
        self._closing = threading.Thread(
            target=self._service.shutdown, name="onstream-flight-end", daemon=True
        )
        drained = self._streams.drain(bound_s)
        # The server stops listening first, so that nobody comes back on the connection that is cut.
        self._closing.start()
        self._streams.ended.set()
        deadline = time.monotonic() + _CUT_S
        self._closing.join(0.05)
        while self._closing.is_alive() and time.monotonic() < deadline:
            cut_connections(port)
            self._closing.join(0.05)
        return drained

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Shut down."""
        self.shutdown()


def _tls(access: Access) -> dict[str, Any]:
    """Return the options of pyarrow's server that make it speak TLS."""
    if access.certificate is None or access.key is None:
        return {}
    options: dict[str, Any] = {
        "tls_certificates": [fl.CertKeyPair(access.certificate.read_bytes(), access.key.read_bytes())]
    }
    if access.client_ca is not None:
        options |= {"verify_client": True, "root_certificates": access.client_ca.read_bytes()}
    return options

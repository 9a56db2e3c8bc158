"""The prediction server: models behind all wires, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from onstream.errors import JobError, MissingExtraError
from onstream.serving.access import Access
from onstream.serving.access_log import AccessLog
from onstream.serving.metrics import Metrics
from onstream.serving.oip.limits import Limits
from onstream.serving.served import Served
from onstream.serving.settings import ModelSettings, ServerSettings
from onstream.serving.siblings import TELL_S, Siblings
from onstream.serving.wires import Addresses, Observe, Wires, in_thread
from onstream.streams import Log

try:
    import uvloop
except ImportError as error:
    raise MissingExtraError("serving needs uvloop: pip install 'onstream[serving]'") from error

__all__ = ["Addresses", "Server"]

# How often it is looked whether models are ready, for notes.
_WATCH_S = 0.25

# How often it is looked whether the models of one of several processes are loaded.
_LOOK_S = 0.02

# How often it is told what was served.
_STATUS_S = 1.0
# How long the server stays to say that it is going away.
_FAREWELL_S = 0.2


class Server:
    """Serve models over REST, gRPC and Arrow Flight, until told to stop; then finish what was begun.

    Parameters
    ----------
    models : mapping of str to ModelSettings or path
        By the name that requests say. A directory alone is served with default settings.
    settings : ServerSettings, optional
    access : Access, optional
    logs : mapping of str to Log, optional
        To which Flight appends the examples that clients send. They are not closed.
    limits : Limits, optional
        Of one request over REST or gRPC, and of one batch over Flight.

    Raises
    ------
    JobError
        If there is nothing to serve, or others could reach the address unasked.

    Notes
    -----
    `run` serves in the calling thread; as a context manager, it serves in a thread of its own. The server is
    live as soon as it listens; a model is ready once a version of it is loaded.

    To stop is to drain: readiness turns false and new requests are answered UNAVAILABLE at once, requests that
    were taken are finished within `drain_s`, and then all streams and connections are ended, whatever clients do.

    Examples
    --------
    >>> import tempfile, urllib.request
    >>> anywhere = ServerSettings(rest_port=0, grpc_port=None, flight_port=None)
    >>> with Server({"clicks": tempfile.mkdtemp()}, anywhere) as server:
    ...     urllib.request.urlopen(f"{server.addresses.rest}/v2/health/live").status
    200
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings | str | Path],
        settings: ServerSettings | None = None,
        access: Access | None = None,
        *,
        logs: Mapping[str, Log] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Check what can be checked; nothing is opened yet."""
        self._settings = settings or ServerSettings()
        self._access = access or Access()
        self._specs = {
            name: spec if isinstance(spec, ModelSettings) else ModelSettings(directory=spec)
            for name, spec in models.items()
        }
        self._logs = logs or {}
        self._limits = limits or Limits()
        if not self._specs and not self._logs:
            raise JobError("there is nothing to serve: give a model directory")
        member = self._settings.member
        # Of several processes the first one has Flight; to the others, a log tells when examples arrived.
        if self._logs and self._settings.flight_port is None and (member is None or member.number == 1):
            raise JobError("logs take examples over Flight, which is off; give it a port")
        self._access.check_host(self._settings.host)
        self.metrics = Metrics()
        self._listening: Future[Addresses] = Future()
        self._stop = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None

    @property
    def addresses(self) -> Addresses:
        """Where it listens; waits until it does, and raises what kept it from that."""
        return self._listening.result()

    def run(
        self,
        listening: Callable[[Addresses], None] | None = None,
        note: Callable[[str], None] | None = None,
        status: Callable[[dict[str, float]], None] | None = None,
    ) -> bool:
        """Serve until `stop` is called or, in the main thread, SIGTERM or SIGINT comes. May be called once.

        Parameters
        ----------
        listening : callable, optional
            Told where it listens, once it does.
        note : callable, optional
            Told, in words, whenever a model gets ready or ceases to be.
        status : callable, optional
            Told every second what was served since, in the numbers of `Tally.take`; of a single model, also its
            "version", and "staleness_s": the time since that was cut.

        Returns
        -------
        bool
            Whether all requests that were taken were also answered, and everything ended in time.

        Raises
        ------
        JobError
            If an address cannot be used, or a certificate cannot be read.
        """
        torch.set_num_threads(self._settings.torch_threads)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(self._serve(listening, note, status))
            except BaseException as error:
                if not self._listening.done():
                    self._listening.set_exception(error)
                raise

    def stop(self) -> None:
        """Have it drain and end. May be called from any thread, any number of times."""
        self._stop.set()
        self._wake()

    def __enter__(self) -> Self:
        """Serve in a thread; return once it listens."""
        self._thread = threading.Thread(target=self._run_quietly, name="onstream-server", daemon=True)
        self._thread.start()
        self._listening.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, and wait until it has ended."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def _run_quietly(self) -> None:
        # What keeps it from listening is raised where it is waited for.
        with contextlib.suppress(JobError):
            self.run()

    async def _serve(
        self,
        listening: Callable[[Addresses], None] | None,
        note: Callable[[str], None] | None,
        status: Callable[[dict[str, float]], None] | None,
    ) -> bool:
        stop = self._stop_event()
        with contextlib.ExitStack() as parts:
            observe = self._observer(parts)
            models: dict[str, Served] = {}
            for name, spec in self._specs.items():
                models[name] = Served(name, spec, self.metrics)
                parts.callback(models[name].close)
            wires = Wires(self._settings, self._access, self._limits)
            member = self._settings.member
            siblings = None if member is None else Siblings(member, self.metrics)
            render = self.metrics.render if siblings is None else siblings.render
            if member is not None:
                # Others answer while this one loads: it is asked once it can answer, if it ever can.
                while not stop.is_set() and not all(model.looked for model in models.values()):
                    await asyncio.sleep(_LOOK_S)
            addresses = await wires.open(models, self._logs, render, observe)
            self._listening.set_result(addresses)
            if listening is not None:
                listening(addresses)
            able = await self._watch(models.values(), stop, note, status, siblings)
            return await self._drain(models.values(), wires) and able

    async def _watch(
        self,
        models: Collection[Served],
        stop: asyncio.Event,
        note: Callable[[str], None] | None,
        status: Callable[[dict[str, float]], None] | None,
        siblings: Siblings | None,
    ) -> bool:
        """Wait until it is time to stop, and tell meanwhile how the models are, and what was served.

        Returns
        -------
        bool
            Whether all models can answer still; if one cannot, and others serve beside, that is time to stop.
        """
        told: dict[str, str] = {}
        status_at = time.monotonic() + _STATUS_S
        tell_at = time.monotonic()
        while not stop.is_set():
            if note is not None:
                _tell_changes(models, told, note)
            if siblings is not None and any(model.failure is not None for model in models):
                return False
            if status is not None and time.monotonic() >= status_at:
                status_at += _STATUS_S
                status(self._status(models))
            if siblings is not None and time.monotonic() >= tell_at:
                tell_at += TELL_S
                await in_thread(siblings.tell)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _WATCH_S)
        return True

    def _status(self, models: Collection[Served]) -> dict[str, float]:
        found = self.metrics.tally.take()
        loaded = [model.condition().loaded.get("usual") for model in models]
        if len(loaded) == 1 and loaded[0] is not None:
            found["version"] = loaded[0].version
            if loaded[0].cut_s is not None:
                found["staleness_s"] = max(0.0, time.time() - loaded[0].cut_s)
        return found

    def _stop_event(self) -> asyncio.Event:
        """Return what is set when it is time to stop."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def wake() -> None:
            # A loop that is closed has ended already.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(stop.set)

        self._wake = wake
        if self._stop.is_set():
            stop.set()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal, loop, stop)
        return stop

    def _on_signal(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        stop.set()
        # A second signal ends the process at once.
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    def _observer(self, parts: contextlib.ExitStack) -> Observe:
        """Return who is told of every request."""
        if self._settings.access_log is None:
            return self.metrics.observe
        log = AccessLog(self._settings.access_log)
        parts.callback(log.close)
        count = self.metrics.observe

        def observe(wire: str, model: str, status: str, seconds: float, rows: int) -> None:
            count(wire, model, status, seconds, rows)
            log.observe(wire, model, status, seconds, rows)

        return observe

    async def _drain(self, models: Collection[Served], wires: Wires) -> bool:
        bound_s = self._settings.drain_s
        end = asyncio.get_running_loop().time() + bound_s
        for model in models:
            model.refuse()
        # Whoever asks now is told UNAVAILABLE by REST and gRPC, and so is who asks whether the server is ready: a
        # port that is closed at once cancels calls that are under way to it.
        drained = await asyncio.gather(
            wires.close_flight(bound_s),
            *(in_thread(partial(model.drain, bound_s)) for model in models),
            asyncio.sleep(min(_FAREWELL_S, bound_s), True),
        )
        return await wires.close(max(0.0, end - asyncio.get_running_loop().time())) and all(drained)


def _tell_changes(models: Collection[Served], told: dict[str, str], note: Callable[[str], None]) -> None:
    """Tell of each model that is ready now and was not, or the other way round."""
    for model in models:
        reason = model.not_ready()
        # Reasons differ if their words do: what is too old gets older all the time.
        words = "" if reason is None else re.sub(r"\d+", "", reason)
        if told.get(model.name) != words:
            told[model.name] = words
            versions = ", ".join(map(str, model.versions()))
            note(f"{model.name} is " + (f"not ready: {reason}" if reason else f"ready: version {versions}"))

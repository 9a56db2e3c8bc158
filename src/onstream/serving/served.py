"""A served model: the version that usually answers, and those that share or shadow its requests."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from onstream.contracts import Predictions
from onstream.errors import NotFoundError, OnstreamError, RequestError, UnavailableError
from onstream.serving.batcher import Batcher
from onstream.serving.metrics import Condition, Loaded, Metrics, ModelMetrics, Route
from onstream.serving.model import Answer, Signature
from onstream.serving.recorder import Recorder
from onstream.serving.replica import Replica
from onstream.serving.settings import ModelSettings, Share
from onstream.splitmix import mixed
from onstream.streams.log import PARTITION

__all__ = ["Served", "goes_to"]

_log = logging.getLogger(__name__)

_JOIN_S = 5.0


class Served:
    """Serve a model directory: follow its checkpoints, and answer each request by one version.

    Parameters
    ----------
    name : str
    settings : ModelSettings
    metrics : Metrics
    first_request : int, optional
        Number of the first request, from which ids follow and so who goes where. Drawn by default.

    Notes
    -----
    Each request has a 64-bit id. `goes_to` says of an id whether it is the canary's, and whether the shadow scores
    it too: shares are kept without regard to the order in which clients ask. A canary that has no version, has
    failed or takes other inputs gets nothing: the usual version answers.

    The shadow scores what the usual version answered, from a queue of its own, after all answers of the call were
    given. When that queue is full, requests are not scored, and counted.

    Requests that name a version go to it, and are neither the canary's nor the shadow's.
    """

    def __init__(
        self, name: str, settings: ModelSettings, metrics: Metrics, *, first_request: int | None = None
    ) -> None:
        """Begin to follow the directory; whatever is wrong with it is told by `not_ready`."""
        self._name = name
        self._settings = settings
        self._metrics = metrics.of(name, self.condition)
        self._recorder = None if settings.record is None else Recorder(settings.record, self._metrics)
        self._numbers = count(secrets.randbits(64) if first_request is None else first_request)
        self._draining = False
        self._usual = _Branch("usual", settings.tag, settings, self._metrics)
        self._canary = self._second("canary", settings.canary)
        self._shadow = self._second("shadow", settings.shadow)
        seconds = [second.branch for second in (self._canary, self._shadow) if second is not None]
        self._branches = [self._usual, *seconds]

    @property
    def name(self) -> str:
        """The name that requests say."""
        return self._name

    def signature(self) -> Signature:
        """Return what it takes and gives; raise UnavailableError while no version is loaded."""
        return self._usual.replica.signature()

    def versions(self) -> tuple[int, ...]:
        """Return the versions that may answer now, the usual one first; none while none is loaded."""
        loaded = (branch.loaded for branch in self._branches)
        return tuple(dict.fromkeys(found.version for found in loaded if found is not None))

    def not_ready(self) -> str | None:
        """Return why it should get no requests, or None if it is ready."""
        if self._draining:
            return "the server is going away"
        reason = self._usual.not_ready()
        limit_s = self._settings.max_staleness_s
        loaded = self._usual.loaded
        if reason is None and loaded is not None and limit_s is not None and not self._usual.knows_all():
            if loaded.cut_s is None:
                return f"version {loaded.version} does not say when it was cut, and may be at most {limit_s:g} s old"
            stale_s = time.time() - loaded.cut_s
            if stale_s > limit_s:
                return f"version {loaded.version} was cut {stale_s:.1f} s ago, and may be at most {limit_s:g} s old"
        return reason

    @property
    def looked(self) -> bool:
        """Whether it has looked for a version, and loaded it if one is there."""
        return self._usual.replica.looked

    @property
    def failure(self) -> str | None:
        """Why it will never answer again, or learn of new versions; None if it can."""
        return self._usual.failure

    def predict(
        self, rows: pa.RecordBatch, *, version: int | None = None, timeout_s: float | None = None
    ) -> Future[Answer]:
        """Begin to predict rows, as `Model.predict` says."""
        if self._draining:
            raise UnavailableError("the server is going away")
        request = mixed(next(self._numbers))
        branch = self._branch(request, version)
        rows = _selected(rows, branch.replica.signature())
        after = self._after(request, rows, branch, version)
        return branch.batcher.submit(rows, version=version, timeout_s=timeout_s, after=after)

    def condition(self) -> Condition:
        """Return how it is at the moment, for metrics."""
        loaded = {branch.route: branch.loaded for branch in self._branches}
        return Condition(
            ready=self.not_ready() is None,
            queued_rows=self._usual.batcher.queued_rows,
            loaded={route: found for route, found in loaded.items() if found is not None},
        )

    def refuse(self) -> None:
        """Take no more requests, and say so to who asks whether it is ready."""
        self._draining = True

    def drain(self, bound_s: float) -> bool:
        """Take no more requests, and answer those taken; return whether all were answered within `bound_s`."""
        self.refuse()
        end = time.monotonic() + bound_s
        answered = True
        for branch in self._branches:
            # The shadow is last, since answers lead to it. What it has not scored is nobody's answer.
            answered &= branch.batcher.drain(end - time.monotonic()) or branch.route == "shadow"
        return answered

    def close(self) -> None:
        """Stop all threads. Closing again does nothing."""
        self.refuse()
        for branch in self._branches:
            branch.close()
        if self._recorder is not None:
            self._recorder.close()

    def _second(self, route: Route, share: Share | None) -> _Second | None:
        if share is None:
            return None
        return _Second(_Branch(route, share.which, self._settings, self._metrics), share.share)

    def _branch(self, request: int, version: int | None) -> _Branch:
        """Return who answers a request."""
        if version is not None:
            for branch in self._branches:
                loaded = branch.loaded
                if loaded is not None and loaded.version == version:
                    return branch
            if self._usual.loaded is not None:
                raise NotFoundError(
                    f"version {version} of model {self._name!r} is not loaded; "
                    f"loaded: {', '.join(map(str, self.versions()))}"
                )
        canary = self._canary
        if version is None and canary is not None and goes_to(request, canary.share):
            branch = canary.branch
            if branch.not_ready() is None and branch.replica.signature() == self.signature():
                return branch
        return self._usual

    def _after(
        self, request: int, rows: pa.RecordBatch, branch: _Branch, version: int | None
    ) -> Callable[[Answer], None] | None:
        """Return what is to be done once a request has its answer."""
        shadow = self._shadow
        # Mixed once more: who goes to the canary says nothing about who is shadowed.
        if (
            version is not None
            or branch is not self._usual
            or shadow is None
            or not goes_to(mixed(request), shadow.share)
        ):
            shadow = None
        recorder = self._recorder
        if shadow is None and recorder is None:
            return None

        def after(answer: Answer) -> None:
            if recorder is not None:
                recorder.add(request, branch.route, answer)
            if shadow is not None:
                self._score(shadow.branch, request, rows, answer)

        return after

    def _score(self, shadow: _Branch, request: int, rows: pa.RecordBatch, answered: Answer) -> None:
        """Have the shadow score what was answered."""

        def scored(future: Future[Answer]) -> None:
            if future.exception() is not None:
                self._metrics.shadow_dropped()
                return
            answer = future.result()
            self._metrics.shadowed(answered.predictions, answer.predictions)
            if self._recorder is not None:
                self._recorder.add(request, "shadow", answer)

        try:
            shadow.batcher.submit(rows).add_done_callback(scored)
        except OnstreamError:
            self._metrics.shadow_dropped()


def goes_to(request: int, share: float) -> bool:
    """Tell whether a request, by its id of 64 bits, belongs to a share of all."""
    return request < share * 2.0**64


class _Branch:
    """One followed version of a model, and the threads that predict with it."""

    def __init__(
        self, route: Route, which: str | None, settings: ModelSettings, metrics: ModelMetrics
    ) -> None:
        self.route = route
        self._metrics = metrics
        self._examples = settings.examples
        self._known: int | None = None
        self.replica = _Followed(
            settings.directory,
            tag=which,
            report=self._failed,
            swapped=self._swapped,
            allow_pickle=settings.allow_pickle,
        )
        self._stop = threading.Event()
        self._died: str | None = None
        self.batcher = Batcher(
            self._run,
            max_rows=settings.max_rows,
            max_delay_s=settings.max_delay_s,
            max_queue_rows=settings.max_queue_rows,
            max_queue_requests=settings.max_queue_requests,
            threads=1 if route == "shadow" else settings.workers,
            observe=metrics.calls(route),
            name=route,
        )
        self._follower = threading.Thread(target=self._follow, name=f"onstream-follow-{route}", daemon=True)
        self._follower.start()

    @property
    def loaded(self) -> Loaded | None:
        """The version that answers."""
        try:
            with self.replica.reading() as version:
                return Loaded(version.version, version.cut_s)
        except UnavailableError:
            return None

    @property
    def failure(self) -> str | None:
        """Why it cannot go on, since a thread of it has died; None if none has."""
        return self._died or self.batcher.failure

    def not_ready(self) -> str | None:
        """Return why it cannot answer, or will not learn of new versions."""
        if self.failure is not None:
            return self.failure
        if self.loaded is None:
            why = self.replica.status().error
            return "no version is loaded yet" + (f": {why}" if why else "")
        return None

    def knows_all(self) -> bool:
        """Tell whether it knows all examples that there are, so that no newer version can be better."""
        if self._examples is None:
            return False
        with contextlib.suppress(OnstreamError), self.replica.reading() as version:
            return version.positions.get(PARTITION, 0) >= self._examples.end
        return False

    def close(self) -> None:
        self._stop.set()
        self.batcher.close()
        self._follower.join(_JOIN_S)
        self.replica.close()

    def _follow(self) -> None:
        try:
            self.replica.follow(self._stop)
        except BaseException as error:
            # Not only Exception: whoever asks whether the model is ready must learn that it will not change.
            _log.critical("following of checkpoints ended", exc_info=error)
            self._died = f"following of checkpoints ended with {type(error).__name__}"

    def _swapped(self) -> None:
        now = time.time()
        with self.replica.reading() as version:
            cut_s, known = version.cut_s, version.positions.get(PARTITION, 0)
        if self._examples is None:
            born = [] if cut_s is None else [cut_s]
        else:
            # Of a first version nobody knows what of it is new.
            born = [] if self._known is None else self._examples.arrivals(self._known, known)
            self._known = known
        for then in born:
            self._metrics.fresh(self.route, max(0.0, now - then))

    def _failed(self, why: str) -> None:
        _log.warning("%s: %s", self.route, why)
        self._metrics.failed(self.route)

    def _run(self, pieces: Sequence[pa.RecordBatch], version: int | None) -> Answer:
        with self.replica.reading() as side:
            if version is not None and side.version != version:
                raise NotFoundError(f"version {version} is not loaded any more; version {side.version} is")
            found = [side.predict(piece) for piece in pieces]
            answer = Answer(_joined(found), side.version)
        self._metrics.predicted(self.route, answer.predictions)
        return answer


class _Followed(Replica):
    """A replica that tells when another version answers."""

    def __init__(
        self,
        directory: str | Path,
        *,
        tag: str | None,
        report: Callable[[str], None],
        swapped: Callable[[], None],
        allow_pickle: bool,
    ) -> None:
        super().__init__(directory, tag=tag, report=report, allow_pickle=allow_pickle)
        self._tell_swapped = swapped
        self.looked = False

    def poll(self) -> bool:
        try:
            changed = super().poll()
        finally:
            self.looked = True
        if changed:
            self._tell_swapped()
        return changed


class _Second(NamedTuple):
    """A second version, and its share of the requests."""

    branch: _Branch
    share: float


def _joined(pieces: Sequence[Predictions]) -> Predictions:
    if len(pieces) == 1:
        return pieces[0]
    return {label: np.concatenate([piece[label] for piece in pieces]) for label in pieces[0]}


def _selected(rows: pa.RecordBatch, signature: Signature) -> pa.RecordBatch:
    """Return the columns that the model reads, in one order: requests of equal columns can share a call."""
    names = [column.name for column in signature.inputs]
    if rows.schema.names == names:
        return rows
    there = set(rows.schema.names)
    chosen = [name for name in names if name in there]
    if double := [name for name in chosen if rows.schema.get_field_index(name) < 0]:
        raise RequestError(f"column {double[0]!r} is in the request more than once")
    return rows.select(chosen)

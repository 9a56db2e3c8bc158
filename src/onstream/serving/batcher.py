"""Joining requests that come at the same time into one call of the model."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import TypeAlias

import pyarrow as pa

from onstream.errors import (
    ColumnError,
    DeadlineError,
    JobError,
    OnstreamError,
    RequestError,
    ShapeError,
    UnavailableError,
)
from onstream.serving.model import Answer

__all__ = ["Batcher", "Call", "Run"]

Run: TypeAlias = Callable[[Sequence[pa.RecordBatch], int | None], Answer]
"""Predict the rows of all pieces, in order, by one version: the one named, or the one that is usual now."""

_LONGEST_WAIT_S = 60.0
_JOIN_S = 5.0
# How many requests that ended while they queued may keep their place before the queue is swept.
_DEAD = 64
_NO_ROWS = pa.RecordBatch.from_pydict({})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """What one call of the model did.

    Attributes
    ----------
    requests, rows : int
        Answered by it.
    waited_s : tuple of float
        How long each of the requests was queued.
    took_s : float
        From when a worker took them until they were answered.
    """

    requests: int
    rows: int
    waited_s: tuple[float, ...]
    took_s: float


class Batcher:
    """Answer each request with exactly its own rows, of one version, joining those that come together.

    Parameters
    ----------
    run : Run
        The model. It is called from `threads` threads.
    max_rows : int
        Requests are joined up to this many rows. A larger request runs alone, in pieces of this many.
    max_delay_s : float
        How long a worker that is free may wait for as many requests as the last call had. It waits only when
        that call ended less than this ago: a lone request, and the first after a pause, never wait.
    max_queue_rows, max_queue_requests : int
        A request that would make the queue longer is refused at once.
    threads : int
    observe : callable, optional
        Told of each `Call`, after its requests were answered.
    name : str
        Of the threads.

    Notes
    -----
    Requests of equal columns and version are taken in the order of their arrival; among different ones, the
    oldest goes first. When a joined call fails for the rows' sake, its halves are run apart, and so on, until
    only the requests that are at fault fail.

    A request is answered at its deadline at the latest, whatever the workers do. If a worker dies, `failure`
    says why, and every request then waiting or coming is answered UnavailableError.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_rows: int = 4096,
        max_delay_s: float = 0.001,
        max_queue_rows: int = 65_536,
        max_queue_requests: int = 1024,
        threads: int = 1,
        observe: Callable[[Call], None] | None = None,
        name: str = "batcher",
    ) -> None:
        """Start the threads."""
        sizes = {
            "max_rows": max_rows,
            "max_queue_rows": max_queue_rows,
            "max_queue_requests": max_queue_requests,
            "threads": threads,
        }
        for setting, value in sizes.items():
            if value < 1:
                raise JobError(f"{setting} must be at least 1, got {value!r}")
        if not 0 <= max_delay_s <= 1:
            raise JobError(f"max_delay_s must be from 0 to 1 second, got {max_delay_s!r}")
        self._run = run
        self._max_rows = max_rows
        self._max_delay_s = max_delay_s
        self._max_queue_rows = max_queue_rows
        self._max_queue_requests = max_queue_requests
        self._observe = observe

        # One lock guards all that follows. It is never held while a future is resolved or the model runs.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._alarm = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._numbers = count()
        self._lanes: list[_Lane] = []
        self._queued_rows = 0
        self._queued = 0
        self._dead = 0
        self._running: set[_Request] = set()
        self._calls = 0
        self._timed: set[_Request] = set()
        self._next_deadline = math.inf
        self._idle = 0
        self._expected = 1
        self._last_end = -math.inf
        self._gather_until: float | None = None
        self._draining = False
        self._stopped = False
        self._failure: str | None = None

        loops = [(f"onstream-{name}-{i}", self._answer_all) for i in range(threads)]
        loops.append((f"onstream-{name}-deadlines", self._expire_all))
        self._threads = [
            threading.Thread(target=self._guard, args=(loop,), name=title, daemon=True)
            for title, loop in loops
        ]
        for thread in self._threads:
            thread.start()

    @property
    def failure(self) -> str | None:
        """Why no request is answered any more: a worker died. None while all is well."""
        return self._failure

    @property
    def queued_rows(self) -> int:
        """How many rows are waiting for a worker."""
        return self._queued_rows

    def submit(
        self,
        rows: pa.RecordBatch,
        *,
        version: int | None = None,
        timeout_s: float | None = None,
        after: Callable[[Answer], None] | None = None,
    ) -> Future[Answer]:
        """Queue a request; its future is resolved by a worker, or at its deadline.

        Parameters
        ----------
        rows : pyarrow.RecordBatch
        version : int, optional
            Given to `run`. Requests for different versions are never in one call.
        timeout_s : float, optional
            From now; when it has passed, the answer is DeadlineError, and what has not begun is not computed.
        after : callable, optional
            Called with the answer once all requests of the call have theirs.

        Raises
        ------
        RequestError
            If the request is larger than the queue.
        UnavailableError
            If the queue is full, a worker has died, or no more requests are taken.
        DeadlineError
            If `timeout_s` is not positive.
        """
        if timeout_s is not None and not timeout_s > 0:
            raise DeadlineError(f"the deadline passed {-timeout_s:.3f} s before the request came")
        if rows.num_rows > self._max_queue_rows:
            raise RequestError(
                f"a request may have at most {self._max_queue_rows} rows, got {rows.num_rows}; "
                f"send them in several"
            )
        now = time.monotonic()
        deadline = math.inf if timeout_s is None else now + timeout_s
        request = _Request(self, rows, version, next(self._numbers), now, deadline, after)
        with self._lock:
            self._admit(request)
            lane = self._lane(rows.schema, version)
            lane.requests.append(request)
            self._queued += 1
            self._queued_rows += request.num_rows
            if deadline < math.inf:
                self._timed.add(request)
                if deadline < self._next_deadline:
                    self._next_deadline = deadline
                    self._alarm.notify()
            # A worker that waits for more is woken only when there is something for it to do.
            if self._idle and (self._queued == 1 or self._gathered()):
                self._work.notify()
        return request

    def drain(self, bound_s: float) -> bool:
        """Take no more requests, and wait until those taken are answered; return whether they all were.

        After `bound_s`, the rest is answered UnavailableError. What is to be told of the answers is told when this
        returns, unless that takes longer.
        """
        end = time.monotonic() + bound_s
        with self._lock:
            self._draining = True
            self._work.notify_all()
            while (self._queued or self._running or self._calls) and (left := end - time.monotonic()) > 0:
                self._settled.wait(min(left, _LONGEST_WAIT_S))
            rest = self._abandon()
        _fail(rest, UnavailableError("the server is going away"))
        return not rest

    def close(self) -> None:
        """Answer what waits with UnavailableError and stop the threads. Closing again does nothing."""
        self.drain(0)
        with self._lock:
            self._stopped = True
            self._work.notify_all()
            self._alarm.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    # ------------------------------------------------------------------------- the queue, under the lock

    def _admit(self, request: _Request) -> None:
        if self._failure is not None:
            raise UnavailableError(f"the model is not served any more: {self._failure}")
        if self._draining:
            raise UnavailableError("the server is going away")
        full = self._queued_rows + request.num_rows > self._max_queue_rows
        if full or self._queued >= self._max_queue_requests:
            raise UnavailableError(
                f"too busy: {self._queued} requests of {self._queued_rows} rows are waiting; ask again later"
            )

    def _lane(self, schema: pa.Schema, version: int | None) -> _Lane:
        for lane in self._lanes:
            if lane.version == version and lane.schema.equals(schema, check_metadata=True):
                return lane
        self._lanes.append(_Lane(schema, version))
        return self._lanes[-1]

    def _take(self) -> list[_Request] | None:
        """Wait for requests and return those of one call, None at the end. All may have ended meanwhile."""
        with self._lock:
            while not self._stopped:
                wait_s = self._gather_s() if self._queued else _LONGEST_WAIT_S
                if wait_s <= 0:
                    taken = self._next_call()
                    self._calls += 1
                    if self._queued and self._idle:
                        self._work.notify()
                    return taken
                self._idle += 1
                self._work.wait(wait_s)
                self._idle -= 1
            return None

    def _gathered(self) -> bool:
        return self._queued >= self._expected or self._queued_rows >= self._max_rows or self._draining

    def _gather_s(self) -> float:
        """Return how long to wait for more requests."""
        now = time.monotonic()
        if self._gathered():
            return 0.0
        if self._gather_until is None:
            if now - self._last_end >= self._max_delay_s:
                return 0.0
            self._gather_until = now + self._max_delay_s
        return self._gather_until - now

    def _next_call(self) -> list[_Request]:
        self._gather_until = None
        for lane in self._lanes:
            self._dead -= lane.drop_ended()
        self._lanes = [lane for lane in self._lanes if lane.requests]
        lane = min(self._lanes, key=lambda lane: lane.requests[0].number)
        taken: list[_Request] = []
        rows = 0
        while lane.requests and (not taken or rows + lane.requests[0].num_rows <= self._max_rows):
            request = lane.requests.popleft()
            if request.state is _State.ENDED:
                self._dead -= 1
            elif self._begin(request):
                taken.append(request)
                rows += request.num_rows
        return taken

    def _begin(self, request: _Request) -> bool:
        """Take a request out of the queue; return False if it was cancelled just now."""
        self._queued -= 1
        self._queued_rows -= request.num_rows
        if request.set_running_or_notify_cancel():
            request.state = _State.RUNNING
            self._running.add(request)
            return True
        self._end(request)
        return False

    def _end(self, request: _Request) -> None:
        request.state = _State.ENDED
        self._running.discard(request)
        self._timed.discard(request)
        if not self._queued and not self._running:
            self._settled.notify_all()

    def _leave_queue(self, request: _Request) -> bool:
        """Begin a request that no worker has taken, though it stays in its lane until that is swept."""
        self._dead += 1
        request.rows = _NO_ROWS
        begun = self._begin(request)
        if self._dead > max(_DEAD, self._queued):
            for lane in self._lanes:
                lane.requests = deque(r for r in lane.requests if r.state is _State.QUEUED)
            self._lanes = [lane for lane in self._lanes if lane.requests]
            self._dead = 0
        return begun

    def _abandon(self, also: Iterable[_Request] = ()) -> list[_Request]:
        """Return all requests that are not answered; they are out of the queue."""
        left = list(self._running)
        for lane in self._lanes:
            left += [r for r in lane.requests if r.state is _State.QUEUED and self._begin(r)]
        self._lanes.clear()
        self._dead = 0
        for request in left:
            self._end(request)
        return left

    # --------------------------------------------------------------------------------------- the threads

    def _guard(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            # Not only Exception: whatever ends this thread must not leave requests waiting for it.
            _log.critical("a thread of the batcher died", exc_info=error)
            with self._lock:
                self._failure = f"a worker died of {type(error).__name__}"
                left = self._abandon()
            _fail(left, UnavailableError(f"the model is not served any more: {self._failure}"))

    def _answer_all(self) -> None:
        while (taken := self._take()) is not None:
            try:
                self._answer(taken, time.monotonic())
            finally:
                for request in taken:
                    request.rows = _NO_ROWS
                with self._lock:
                    self._calls -= 1
                    self._settled.notify_all()

    def _answer(self, taken: list[_Request], begun: float) -> None:
        # Those that are late are answered by the thread that watches deadlines.
        taken = [request for request in taken if request.deadline > begun]
        if not taken:
            return
        answered = self._solve(taken)
        ended = time.monotonic()
        with self._lock:
            self._expected = len(taken)
            self._last_end = ended
        try:
            if self._observe is not None:
                waited = tuple(begun - request.arrived for request in taken)
                rows = sum(request.num_rows for request in taken)
                self._observe(Call(len(taken), rows, waited, ended - begun))
            for request, answer in answered:
                if request.after is not None:
                    request.after(answer)
        except Exception:
            _log.exception("what was to be told of a call could not be told")

    def _solve(self, requests: list[_Request]) -> list[tuple[_Request, Answer]]:
        """Answer the requests; return those that got an answer, with it."""
        try:
            answers = _split(self._run(self._pieces(requests), requests[0].version), requests)
        except Exception as error:
            if len(requests) > 1 and _depends_on_rows(error):
                half = len(requests) // 2
                return self._solve(requests[:half]) + self._solve(requests[half:])
            if not isinstance(error, OnstreamError):
                _log.error("the model failed", exc_info=error)
            _fail(self._ending(requests), error)
            return []
        found = dict(zip(requests, answers, strict=True))
        answered = [(request, found[request]) for request in self._ending(requests)]
        for request, answer in answered:
            request.set_result(answer)
        return answered

    def _pieces(self, requests: list[_Request]) -> list[pa.RecordBatch]:
        if len(requests) > 1:
            return [pa.concat_batches([request.rows for request in requests])]
        starts = range(0, max(1, requests[0].num_rows), self._max_rows)
        return [requests[0].rows.slice(start, self._max_rows) for start in starts]

    def _ending(self, requests: list[_Request]) -> list[_Request]:
        """Return those requests that this thread is to resolve: others have passed their deadline."""
        with self._lock:
            mine = [request for request in requests if request.state is _State.RUNNING]
            for request in mine:
                self._end(request)
        return mine

    def _expire_all(self) -> None:
        while True:
            with self._lock:
                if self._stopped:
                    return
                now = time.monotonic()
                due = [request for request in self._timed if request.deadline <= now]
                due = [r for r in due if r.state is _State.RUNNING or self._leave_queue(r)]
                for request in due:
                    self._end(request)
                self._next_deadline = min((r.deadline for r in self._timed), default=math.inf)
                if not due:
                    self._alarm.wait(min(self._next_deadline - now, _LONGEST_WAIT_S))
            _fail(due, DeadlineError("the deadline passed before the answer was there"))

    def _forget(self, request: _Request) -> None:
        """Take a cancelled request out of the queue."""
        with self._lock:
            if request.state is _State.QUEUED:
                self._leave_queue(request)


class _State(Enum):
    QUEUED = 1
    RUNNING = 2
    ENDED = 3


class _Request(Future[Answer]):
    """One request: the future that its client holds, and its place in the queue."""

    def __init__(
        self,
        batcher: Batcher,
        rows: pa.RecordBatch,
        version: int | None,
        number: int,
        arrived: float,
        deadline: float,
        after: Callable[[Answer], None] | None,
    ) -> None:
        super().__init__()
        self.rows = rows
        self.num_rows = rows.num_rows
        self.version = version
        self.number = number
        self.arrived = arrived
        self.deadline = deadline
        self.after = after
        self.state = _State.QUEUED
        self._batcher = batcher

    def cancel(self) -> bool:
        cancelled = super().cancel()
        if cancelled:
            self._batcher._forget(self)
        return cancelled


@dataclass(eq=False, slots=True)
class _Lane:
    """Requests that may share a call, in the order of their arrival."""

    schema: pa.Schema
    version: int | None
    requests: deque[_Request] = field(default_factory=deque)

    def drop_ended(self) -> int:
        dropped = 0
        while self.requests and self.requests[0].state is _State.ENDED:
            self.requests.popleft()
            dropped += 1
        return dropped


def _depends_on_rows(error: Exception) -> bool:
    """Tell whether a call might succeed with other rows."""
    return isinstance(error, RequestError | ColumnError | ShapeError) or not isinstance(error, OnstreamError)


def _split(answer: Answer, requests: Sequence[_Request]) -> list[Answer]:
    """Return for each request its part of the answer to all."""
    total = sum(request.num_rows for request in requests)
    for name, values in answer.predictions.items():
        assert len(values) == total, f"{total} rows got {len(values)} predictions of {name!r}"
    if len(requests) == 1:
        return [answer]
    parts = []
    start = 0
    for request in requests:
        end = start + request.num_rows
        parts.append(Answer({n: v[start:end] for n, v in answer.predictions.items()}, answer.version))
        start = end
    return parts


def _fail(requests: Sequence[_Request], error: Exception) -> None:
    """Resolve each request with an error of its own, which holds no traceback and so no rows."""
    known = isinstance(error, OnstreamError)
    for request in requests:
        request.set_exception(
            type(error)(str(error)) if known else OnstreamError("the model failed; the server's log says why")
        )

"""Joining requests: each client gets its own rows back, in time, whatever the others do."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.errors import DeadlineError, JobError, OnstreamError, RequestError, UnavailableError
from onstream.serving.batcher import Batcher
from onstream.serving.model import Answer

BOUND_S = 30.0
BAD = -1


def rows(*ids, name="id"):
    return pa.record_batch({name: pa.array(ids, pa.int64())})


class Echo:
    """A model that predicts the id of each row; `hold` keeps its calls until `release`."""

    def __init__(self):
        self.calls = []
        self.version = 1
        self.began = threading.Semaphore(0)
        self.released = threading.Event()
        self.released.set()
        self.error = None

    def __call__(self, pieces, version):
        version = version or self.version
        ids = [piece.column(0).to_numpy() for piece in pieces]
        self.calls.append([list(piece) for piece in ids])
        self.began.release()
        assert self.released.wait(BOUND_S)
        if self.error is not None:
            raise self.error
        ids = np.concatenate(ids)
        if BAD in ids:
            raise RequestError(f"row {list(ids).index(BAD)} is bad")
        return Answer({"id": ids.astype(np.float32)}, version)

    def hold(self):
        self.released.clear()

    def release(self):
        self.released.set()

    def busy(self):
        """Wait until a call is being held."""
        assert self.began.acquire(timeout=BOUND_S)

    @property
    def seen(self):
        return [row for call in self.calls for piece in call for row in piece]


@pytest.fixture
def echo():
    model = Echo()
    yield model
    model.release()


@pytest.fixture
def batching(echo):
    made = []

    def make(run=echo, **options):
        made.append(Batcher(run, **options))
        return made[-1]

    yield make
    echo.release()
    for batcher in made:
        batcher.close()
        assert not any(thread.is_alive() for thread in batcher._threads)


def ids(future):
    return future.result(BOUND_S).predictions["id"].tolist()


def test_a_lone_request_is_answered_without_waiting_for_others(echo, batching):
    # With a delay this long, and none that has just been answered with others, waiting would be the whole second.
    calls = []
    batcher = batching(max_delay_s=1.0, observe=calls.append)
    for i in range(5):
        assert ids(batcher.submit(rows(i))) == [i]
    batcher.close()
    assert [call.requests for call in calls] == [1] * 5
    assert sum(call.waited_s[0] for call in calls) < 1.0


def test_what_is_queued_when_a_worker_becomes_free_is_one_call(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    others = [batcher.submit(rows(i, 10 * i)) for i in range(1, 5)]
    echo.release()
    assert ids(first) == [0]
    assert [ids(future) for future in others] == [[i, 10 * i] for i in range(1, 5)]
    assert echo.calls == [[[0]], [[1, 10, 2, 20, 3, 30, 4, 40]]]


def answer_a_pair(echo, batcher, threads=1):
    """Have two requests answered by one call, as if from two clients."""
    echo.hold()
    held = [batcher.submit(rows(0), version=9 + i) for i in range(threads)]
    for _ in held:
        echo.busy()
    pair = [batcher.submit(rows(1)), batcher.submit(rows(2))]
    echo.release()
    wait([*held, *pair], BOUND_S)
    echo.busy()
    assert echo.calls[-1] == [[1, 2]]
    with batcher._settled:
        assert batcher._settled.wait_for(lambda: not batcher._calls, BOUND_S)


def test_a_free_worker_waits_for_as_many_as_just_came_together(echo, batching):
    calls = []
    batcher = batching(max_delay_s=1.0, observe=calls.append)
    answer_a_pair(echo, batcher)
    third = batcher.submit(rows(3))
    assert not echo.began.acquire(timeout=0.1)
    fourth = batcher.submit(rows(4))
    assert ids(third) + ids(fourth) == [3, 4]
    assert echo.calls[-1] == [[3, 4]]
    batcher.close()
    # The second ends the waiting at once.
    assert calls[-1].waited_s[0] < 1.0


def test_the_first_request_after_a_pause_waits_for_no_other(echo, batching):
    calls = []
    batcher = batching(max_delay_s=1.0, observe=calls.append)
    answer_a_pair(echo, batcher)
    batcher._last_end -= 2.0
    assert ids(batcher.submit(rows(3))) == [3]
    batcher.close()
    assert calls[-1].waited_s[0] < 1.0


def test_all_free_workers_work_when_there_is_work_for_several(echo, batching):
    batcher = batching(max_delay_s=1.0, threads=2)
    answer_a_pair(echo, batcher, threads=2)
    echo.hold()
    futures = [batcher.submit(rows(3), version=1), batcher.submit(rows(4), version=2)]
    echo.busy()
    echo.busy()
    echo.release()
    assert [ids(future) for future in futures] == [[3], [4]]


def test_waiting_for_more_ends_after_the_delay(echo, batching):
    batcher = batching(max_delay_s=0.01)
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    pair = [batcher.submit(rows(1)), batcher.submit(rows(2))]
    echo.release()
    wait([first, *pair], BOUND_S)
    assert ids(batcher.submit(rows(3))) == [3]


def test_calls_hold_at_most_max_rows_in_the_order_of_arrival(echo, batching):
    batcher = batching(max_rows=4)
    echo.hold()
    futures = [batcher.submit(rows(0))]
    echo.busy()
    futures += [batcher.submit(rows(*range(10 * i, 10 * i + size))) for i, size in ((1, 3), (2, 1), (3, 2))]
    echo.release()
    wait(futures, BOUND_S)
    assert echo.calls == [[[0]], [[10, 11, 12, 20]], [[30, 31]]]


def test_a_larger_request_runs_alone_in_pieces_of_one_version(echo, batching):
    batcher = batching(max_rows=4)
    echo.hold()
    futures = [batcher.submit(rows(0))]
    echo.busy()
    futures += [batcher.submit(rows(1)), batcher.submit(rows(*range(10, 20))), batcher.submit(rows(2))]
    echo.release()
    answer = futures[2].result(BOUND_S)
    assert answer.predictions["id"].tolist() == list(range(10, 20))
    wait(futures, BOUND_S)
    assert echo.calls == [[[0]], [[1]], [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19]], [[2]]]


def test_requests_of_other_columns_or_versions_are_never_in_one_call(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    futures = [
        batcher.submit(rows(1)),
        batcher.submit(rows(2, name="other")),
        batcher.submit(rows(3), version=7),
        batcher.submit(rows(4)),
        batcher.submit(rows(5), version=7),
    ]
    echo.release()
    assert [ids(f) for f in [first, *futures]] == [[0], [1], [2], [3], [4], [5]]
    assert [f.result().version for f in futures] == [1, 1, 7, 1, 7]
    assert echo.calls == [[[0]], [[1, 4]], [[2]], [[3, 5]]]


def test_a_bad_row_fails_its_own_request_alone_and_is_named_within_it(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    good = [batcher.submit(rows(i)) for i in range(1, 6)]
    bad = batcher.submit(rows(6, 7, BAD))
    good += [batcher.submit(rows(i)) for i in range(8, 12)]
    echo.release()
    assert [ids(f) for f in [first, *good]] == [
        [0],
        *([i] for i in range(1, 6)),
        *([i] for i in range(8, 12)),
    ]
    with pytest.raises(RequestError, match=r"^row 2 is bad$"):
        bad.result(BOUND_S)


def test_an_error_that_is_not_the_rows_fault_is_everyones_after_one_call(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    echo.error = UnavailableError("no version is loaded")
    others = [batcher.submit(rows(i)) for i in range(1, 4)]
    echo.release()
    for future in [first, *others]:
        with pytest.raises(UnavailableError, match="no version"):
            future.result(BOUND_S)
    assert len(echo.calls) == 2


def test_what_went_wrong_inside_is_logged_and_not_told(echo, batching, caplog):
    batcher = batching()
    echo.error = RuntimeError("secret")
    with pytest.raises(OnstreamError, match="the model failed; the server's log says why") as caught:
        batcher.submit(rows(1)).result(BOUND_S)
    assert caught.type is OnstreamError
    assert "secret" in caplog.text
    echo.error = None
    assert ids(batcher.submit(rows(2))) == [2]


@pytest.mark.parametrize("limit", [{"max_queue_requests": 2}, {"max_queue_rows": 5}])
def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(echo, batching, limit):
    batcher = batching(**limit)
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    queued = [batcher.submit(rows(1, 2)), batcher.submit(rows(3, 4))]
    assert batcher.queued_rows == 4
    with pytest.raises(UnavailableError, match="too busy: 2 requests of 4 rows are waiting"):
        batcher.submit(rows(5, 6))
    echo.release()
    wait([first, *queued], BOUND_S)
    assert ids(batcher.submit(rows(5, 6))) == [5, 6]
    assert batcher.queued_rows == 0


def test_a_request_larger_than_the_queue_is_told_to_be_smaller(batching):
    with pytest.raises(RequestError, match="at most 2 rows, got 3; send them in several"):
        batching(max_queue_rows=2).submit(rows(1, 2, 3))


def test_a_deadline_is_kept_while_queued_and_the_rows_are_not_computed(echo, batching):
    batcher = batching(max_queue_requests=1)
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    late = batcher.submit(rows(1), timeout_s=0.01)
    # The worker is held all the while: the answer does not wait for it.
    with pytest.raises(DeadlineError, match="the deadline passed before"):
        late.result(BOUND_S)
    # Its place is free again.
    other = batcher.submit(rows(2), timeout_s=BOUND_S)
    echo.release()
    assert ids(first) + ids(other) == [0, 2]
    assert echo.seen == [0, 2]


def test_a_deadline_is_kept_while_the_model_computes(echo, batching):
    batcher = batching()
    echo.hold()
    late = batcher.submit(rows(1), timeout_s=0.01)
    echo.busy()
    with pytest.raises(DeadlineError):
        late.result(BOUND_S)
    echo.release()
    assert ids(batcher.submit(rows(2))) == [2]


@pytest.mark.parametrize("timeout_s", [0, -1.5])
def test_a_deadline_that_has_passed_is_refused_at_once(batching, timeout_s):
    with pytest.raises(DeadlineError, match="before the request came"):
        batching().submit(rows(1), timeout_s=timeout_s)


def test_an_earlier_deadline_that_comes_later_is_kept(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0), timeout_s=BOUND_S)
    echo.busy()
    late = batcher.submit(rows(1), timeout_s=0.01)
    with pytest.raises(DeadlineError):
        late.result(BOUND_S)
    echo.release()
    assert ids(first) == [0]


def test_a_cancelled_request_is_not_computed_and_frees_its_place(echo, batching):
    batcher = batching(max_queue_requests=1)
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    # More than are ever kept in the queue.
    for i in range(1, 300):
        cancelled = batcher.submit(rows(i))
        assert cancelled.cancel()
        assert wait([cancelled], BOUND_S).done == {cancelled}
    assert sum(len(lane.requests) for lane in batcher._lanes) < 100
    last = batcher.submit(rows(300))
    echo.release()
    assert ids(first) + ids(last) == [0, 300]
    assert echo.seen == [0, 300]
    assert not first.cancel()


class Death(BaseException):
    """What is no Exception ends a thread."""


def test_when_a_worker_dies_all_that_wait_are_answered_and_the_reason_is_told(echo, batching, caplog):
    batcher = batching(threads=2)
    echo.hold()
    running = [batcher.submit(rows(0)), batcher.submit(rows(1), version=2)]
    echo.busy()
    echo.busy()
    queued = batcher.submit(rows(2))
    assert batcher.failure is None
    echo.error = Death()
    echo.release()
    for future in [*running, queued]:
        with pytest.raises(UnavailableError, match="a worker died of Death"):
            future.result(BOUND_S)
    assert batcher.failure == "a worker died of Death"
    with pytest.raises(UnavailableError, match="a worker died of Death"):
        batcher.submit(rows(3))
    assert "Death" in caplog.text


def test_draining_answers_what_was_taken_and_takes_no_more(echo, batching):
    batcher = batching()
    echo.hold()
    first = batcher.submit(rows(0))
    echo.busy()
    second = batcher.submit(rows(1))
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(batcher.drain, BOUND_S)
        while not batcher._draining:
            pass
        with pytest.raises(UnavailableError, match="going away"):
            batcher.submit(rows(2))
        assert not drained.done()
        echo.release()
        assert drained.result(BOUND_S) is True
    assert ids(first) + ids(second) == [0, 1]


def test_draining_ends_at_its_bound_with_an_answer_for_everyone(echo, batching):
    batcher = batching()
    echo.hold()
    futures = [batcher.submit(rows(0))]
    echo.busy()
    futures.append(batcher.submit(rows(1)))
    assert batcher.drain(0.01) is False
    for future in futures:
        with pytest.raises(UnavailableError, match="going away"):
            future.result(BOUND_S)


def test_after_answer_comes_once_all_of_the_call_have_theirs(echo, batching):
    batcher = batching()
    echo.hold()
    told = []
    first = batcher.submit(rows(0))
    echo.busy()
    second: Future[Answer] = Future()
    asked = batcher.submit(rows(1), after=lambda answer: told.append((answer, second.done())))
    batcher.submit(rows(2)).add_done_callback(lambda _: second.set_result(None))
    echo.release()
    wait([first, asked, second], BOUND_S)
    batcher.close()
    assert told == [(asked.result(), True)]


def test_what_cannot_be_told_does_not_end_the_worker(echo, batching, caplog):
    def fail(call):
        raise RuntimeError("no room to write")

    batcher = batching(observe=fail)
    assert [ids(batcher.submit(rows(i))) for i in range(3)] == [[0], [1], [2]]
    batcher.close()
    assert "no room to write" in caplog.text
    assert batcher.failure is None


@pytest.mark.parametrize(
    "wrong", [{"max_rows": 0}, {"threads": 0}, {"max_queue_rows": 0}, {"max_queue_requests": 0}]
)
def test_a_batcher_needs_room_and_threads(wrong):
    with pytest.raises(JobError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
        Batcher(Echo(), **wrong)


@pytest.mark.parametrize("delay", [-0.1, 1.5, float("nan")])
def test_the_delay_is_a_short_time(delay):
    with pytest.raises(JobError, match="max_delay_s must be from 0 to 1 second"):
        Batcher(Echo(), max_delay_s=delay)


# What each of several clients does, one after the other: how many rows, whether one is bad, the version, and
# whether the client gives up at once.
REQUESTS = st.lists(
    st.tuples(st.integers(0, 9), st.booleans(), st.sampled_from([None, 1, 2]), st.booleans()), max_size=12
)


@settings(max_examples=40)
@given(
    clients=st.lists(REQUESTS, min_size=1, max_size=6),
    max_rows=st.integers(1, 20),
    threads=st.integers(1, 3),
    delay_ms=st.sampled_from([0, 0.1, 1]),
)
def test_every_client_gets_exactly_its_own_rows(clients, max_rows, threads, delay_ms):
    model = Echo()
    sizes = []
    batcher = Batcher(
        model, max_rows=max_rows, threads=threads, max_delay_s=delay_ms / 1000, observe=sizes.append
    )

    def act(number, requests):
        asked = []
        for i, (size, bad, version, gives_up) in enumerate(requests):
            mine = [number * 10_000 + i * 100 + j for j in range(size)]
            if bad and size:
                mine[-1] = BAD
            future = batcher.submit(rows(*mine), version=version)
            asked.append((mine, version, future, gives_up and future.cancel()))
        for mine, version, future, cancelled in asked:
            if cancelled:
                assert future.cancelled()
            elif BAD in mine:
                with pytest.raises(RequestError, match=rf"^row {len(mine) - 1} is bad$"):
                    future.result(BOUND_S)
            else:
                assert ids(future) == mine
                assert future.result().version == (version or 1)

    try:
        with ThreadPoolExecutor(len(clients)) as pool:
            for done in [pool.submit(act, i, requests) for i, requests in enumerate(clients)]:
                done.result(BOUND_S)
        assert batcher.queued_rows == 0
        assert all(len(piece) <= max_rows for call in model.calls for piece in call)
    finally:
        batcher.close()

"""Ahead: an iterator in a thread of its own."""

import threading
import traceback

import pytest

from onstream.streams import Ahead
from onstream.streams.ahead import END


def test_items_come_in_order_and_end():
    with Ahead(lambda: iter(range(1000)), depth=3) as items:
        assert list(items) == list(range(1000))
        assert items.take() is END
        assert list(items) == []


def test_an_error_comes_after_the_items_before_it_with_its_traceback():
    def failing():
        yield 1
        raise LookupError("gone")

    with Ahead(failing, depth=5) as items:
        assert next(items) == 1
        with pytest.raises(LookupError, match="gone") as caught:
            next(items)
        assert "failing" in [frame.name for frame in traceback.extract_tb(caught.tb)]
        assert items.take() is END


def test_an_error_of_the_factory_is_raised():
    def broken():
        raise OSError("no such thing")

    with Ahead(broken, depth=1) as items, pytest.raises(OSError, match="no such thing"):
        next(items)


def test_it_runs_ahead_by_its_depth_and_no_more():
    made = []
    full = threading.Event()

    def counting():
        for i in range(100):
            made.append(i)
            if len(made) == 4:
                full.set()
            yield i

    with Ahead(counting, depth=3) as items:
        # Three wait, and the fourth is made but finds no room.
        assert full.wait(10)
        assert next(items) == 0
    assert len(made) <= 5


def test_closing_frees_a_producer_that_is_blocked_and_closes_its_iterator():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = Ahead(endless, depth=1)
    assert next(items) == 1
    items.close()
    assert closed.is_set()
    assert items.take() is END
    items.close()


def test_closing_stops_a_source_that_waits():
    stop = threading.Event()

    def silent():
        stop.wait()
        yield from ()

    items = Ahead(silent, depth=1, stop=stop)
    assert items.take(timeout_s=0) is None
    items.close()
    assert not items._thread.is_alive()


def test_closing_from_another_thread_ends_a_waiting_take():
    release = threading.Event()

    def silent():
        release.wait()
        yield 1

    items = Ahead(silent, depth=1, stop=release)
    ended = []
    taking = threading.Thread(target=lambda: ended.append(list(items)))
    taking.start()
    items.close()
    taking.join(10)
    assert len(ended) == 1

import threading
from pathlib import Path

import pytest
from checkpointed import FakeStore, PowerCutError, load, row, snapshot

from onstream.checkpoints import CheckpointLog, CheckpointWriter, LocalStore, Snapshot
from onstream.errors import CheckpointError


class FakeWait:
    """Notes how long was waited for, and does `then` in place of waiting."""

    def __init__(self, then=lambda: None) -> None:
        self.waits: list[float] = []
        self.then = then

    def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.then()


def test_what_was_submitted_is_durable_after_flush(tmp_path: Path) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log, CheckpointWriter(log) as writer:
        assert writer.poll() is None
        for examples in (1, 2, 3):
            assert writer.submit(snapshot(examples, {examples: row(examples)}))
            assert writer.flush().version == examples
            assert not writer.busy
        assert writer.poll() == log.newest()
        assert load(log, log.newest()) == {k: row(k) for k in (1, 2, 3)}


def test_close_waits_for_the_snapshot_under_way_and_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    with CheckpointLog(LocalStore(tmp_path)) as log:
        writer = CheckpointWriter(log)
        writer.submit(snapshot(1, {1: row(1)}))
        writer.close()
        writer.close()
        assert log.newest().version == 1
        assert threading.active_count() == before
        with pytest.raises(CheckpointError, match="closed"):
            writer.submit(Snapshot())


def test_a_busy_writer_takes_no_second_snapshot(tmp_path: Path) -> None:
    waiting, go = threading.Event(), threading.Event()

    def pause() -> None:
        waiting.set()
        assert go.wait(30)

    store = FakeStore(tmp_path, stop_at=1)
    with (
        CheckpointLog(store) as log,
        CheckpointWriter(log, wait=FakeWait(pause), report=lambda _: None) as writer,
    ):
        assert writer.submit(snapshot(1, {1: row(1)}))
        assert waiting.wait(30)
        assert writer.busy
        assert not writer.submit(snapshot(2, {2: row(2)}))
        assert writer.poll() is None
        store.stop_at = None
        go.set()
        assert load(log, writer.flush()) == {1: row(1)}


def test_a_failed_commit_is_reported_and_tried_again_and_loses_nothing(tmp_path: Path) -> None:
    store = FakeStore(tmp_path)
    said: list[str] = []
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))

        def make_room_the_third_time() -> None:
            assert log.newest(verify=True).version == 1
            if len(wait.waits) == 3:
                store.stop_at = None

        wait = FakeWait(make_room_the_third_time)
        with CheckpointWriter(log, retries=3, wait=wait, report=said.append) as writer:
            store.changes, store.stop_at = 0, 2
            writer.submit(snapshot(2, {2: row(2)}, deleted=[1]))
            assert load(log, writer.flush()) == {2: row(2)}
        assert wait.waits == [1, 2, 4]
        assert len(said) == 3
        assert "next try in 1 s: stopped at change" in said[0]


def test_after_the_last_try_the_error_is_raised_to_the_trainer(tmp_path: Path) -> None:
    store, wait = FakeStore(tmp_path, stop_at=1), FakeWait()
    with CheckpointLog(store) as log:
        writer = CheckpointWriter(log, retries=2, wait=wait, report=lambda _: None)
        writer.submit(snapshot(1, {1: row(1)}))
        for use in (writer.flush, writer.poll, lambda: writer.submit(Snapshot()), writer.close):
            with pytest.raises(PowerCutError):
                use()
        assert wait.waits == [1, 2]
        assert log.newest() is None


def test_a_fault_that_trying_again_cannot_mend_is_raised_at_once(tmp_path: Path) -> None:
    wait = FakeWait()
    with CheckpointLog(LocalStore(tmp_path)) as log:
        writer = CheckpointWriter(log, wait=wait)
        writer.submit("no snapshot")  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            writer.flush()
        with pytest.raises(AttributeError):
            writer.close()
        assert wait.waits == []


def test_an_error_of_the_training_loop_is_not_hidden_by_one_of_the_writer(tmp_path: Path) -> None:
    store = FakeStore(tmp_path, stop_at=1)
    with (
        CheckpointLog(store) as log,
        pytest.raises(ZeroDivisionError),
        CheckpointWriter(log, retries=0, report=lambda _: None) as writer,
    ):
        writer.submit(snapshot(1, {1: row(1)}))
        raise ZeroDivisionError


def test_close_cuts_the_wait_short(tmp_path: Path) -> None:
    store = FakeStore(tmp_path, stop_at=1)
    tried = threading.Event()
    with CheckpointLog(store) as log:
        writer = CheckpointWriter(log, retries=30, report=lambda _: tried.set())
        writer.submit(snapshot(1, {1: row(1)}))
        assert tried.wait(30)
        with pytest.raises(PowerCutError):
            writer.close()


def test_long_chains_are_merged_in_the_background(tmp_path: Path) -> None:
    merged = threading.Event()

    class WatchedLog(CheckpointLog):
        def compact(self, *args: object, **kwargs: object) -> int:
            found = super().compact(*args, **kwargs)
            if found:
                merged.set()
            return found

    with WatchedLog(LocalStore(tmp_path)) as log, CheckpointWriter(log) as writer:
        for examples in range(1, 10):
            assert writer.submit(snapshot(examples, {examples: row(examples)}))
            writer.flush()
        assert merged.wait(30)
        writer.submit(snapshot(10, {10: row(10)}))
        manifest = writer.flush()
        assert len(manifest.tables["user"].segments) == 2
        assert load(log, manifest) == {k: row(k) for k in range(1, 11)}


def test_a_merge_that_fails_is_reported_and_training_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    reported = threading.Event()

    def report(line: str) -> None:
        said.append(line)
        reported.set()

    with CheckpointLog(LocalStore(tmp_path)) as log:
        for examples in range(1, 10):
            log.commit(snapshot(examples, {examples: row(examples)}))
        broken = log.parent.tables["user"].segments[3].name
        (tmp_path / broken).write_bytes(b"")
        with CheckpointWriter(log, report=report) as writer:
            writer.submit(snapshot(10, {10: row(10)}))
            assert writer.flush().version == 10
            assert reported.wait(30)
            assert broken in said[0]
            writer.submit(snapshot(11, {11: row(11)}))
            assert writer.flush().version == 11

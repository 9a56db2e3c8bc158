"""Stop at every change of the disk, then reopen: what was committed is there, and training goes on."""

import subprocess
import sys
import textwrap
from itertools import count
from pathlib import Path

import pytest
from checkpointed import FakeStore, PowerCutError, Row, files, load, row, snapshot

from onstream.checkpoints import CheckpointLog, LocalStore


def train(store: LocalStore, done: list[dict[int, Row]]) -> None:
    """Commit, tag, compact and roll back; append to `done` what each finished commit holds."""
    rows: dict[int, Row] = {}
    with CheckpointLog(store, keep=2) as log:
        for examples in range(1, 12):
            new = {examples: row(examples), 100: row(examples)}
            log.commit(snapshot(examples, new, deleted=[examples - 2] if examples > 2 else []))
            rows = {k: v for k, v in (rows | new).items() if k != examples - 2}
            done.append(rows)
            if examples == 3:
                log.tag("production", 3)
            if examples == 9:
                log.compact(log.parent)
        log.rollback(3)
        done.append(done[2])


def goes_on(root: Path, done: list[dict[int, Row]], attempted: list[dict[int, Row]]) -> None:
    """Reopen after a stop: the last finished commit, or the one that was under way, is there whole."""
    said: list[str] = []
    with CheckpointLog(LocalStore(root), keep=2, report=said.append) as log:
        manifest = log.restore()
        found = load(log, manifest) if manifest else {}
        assert found in (done[-1] if done else {}, *attempted[len(done) : len(done) + 1])
        assert said == [], "a stop damages nothing"
        assert log.verify() == []
        for version in log.tags().values():
            assert load(log, log.read(version)) == attempted[2]
        new = log.commit(snapshot(50, {50: row(50)}))
        assert load(log, new) == found | {50: row(50)}
        needed = {f.name for v in log.versions() for f in log.read(v).files()}
        assert {f for f in files(root) if not f.startswith(("manifests/", "tags/"))} == needed, "no leftovers"


def test_a_stop_at_any_change_loses_at_most_the_commit_under_way(tmp_path: Path) -> None:
    whole: list[dict[int, Row]] = []
    store = FakeStore(tmp_path / "whole")
    train(store, whole)
    for stop_at in range(1, store.changes + 1):
        done: list[dict[int, Row]] = []
        root = tmp_path / str(stop_at)
        # What is removed last is not worth an error: the commit is done, and the next one removes it.
        try:
            train(FakeStore(root, stop_at), done)
        except PowerCutError:
            assert len(done) < len(whole)
        goes_on(root, done, whole)


def test_a_commit_that_failed_can_be_repeated(tmp_path: Path) -> None:
    for stop_at in count(1):
        store = FakeStore(tmp_path / str(stop_at))
        with CheckpointLog(store, keep=1, report=lambda _: None) as log:
            log.commit(snapshot(1, {1: row(1)}))
            store.changes, store.stop_at = 0, stop_at
            second = snapshot(2, {2: row(2)}, deleted=[1])
            try:
                log.commit(second)
            except PowerCutError:
                store.stop_at = None
                assert log.parent == log.newest() == log.read(1)
                log.commit(second)
            stopped = store.changes >= stop_at
            store.stop_at = None
            assert load(log, log.newest(verify=True)) == {2: row(2)}
            log.sweep()
            assert log.versions() == [2]
        if not stopped:
            break
    assert stop_at > 4


KILLED = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import onstream.checkpoints.store as module
    from onstream.checkpoints import LocalStore
    from test_checkpoint_crashes import train

    calls = 0

    def killing(call):
        def wrapped(*args, **kwargs):
            global calls
            calls += 1
            if calls == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return wrapped

    os.fsync = killing(os.fsync)
    Path.replace = killing(Path.replace)
    Path.unlink = killing(Path.unlink)

    class Done(list):
        def append(self, item):
            super().append(item)
            os.write(done, b".")

    for stop_at in {stops}:
        root = Path({root!r}, str(stop_at))
        root.mkdir()
        done = os.open(root.with_suffix(".done"), os.O_WRONLY | os.O_CREAT)
        child = os.fork()
        if child == 0:
            train(LocalStore(root), Done())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(stop_at, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
"""


def test_a_killed_process_loses_at_most_the_commit_under_way(tmp_path: Path) -> None:
    whole: list[dict[int, Row]] = []
    train(LocalStore(tmp_path / "whole"), whole)
    stops = [*range(1, 30), *range(30, 160, 7)]
    script = textwrap.dedent(KILLED).format(tests=str(Path(__file__).parent), stops=stops, root=str(tmp_path))
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert out.returncode == 0, out.stderr
    ended = dict(map(int, line.split()) for line in out.stdout.splitlines())
    assert set(ended) == set(stops)
    assert list(ended.values()).count(9) > 40
    for stop_at in stops:
        root = tmp_path / str(stop_at)
        done = whole[: root.with_suffix(".done").stat().st_size]
        goes_on(root, done, whole)


FULL = """
    import resource, signal, sys
    sys.path.insert(0, {tests!r})
    import numpy as np
    from checkpointed import load, row, snapshot
    from onstream.checkpoints import CheckpointLog, LocalStore
    from onstream.errors import CheckpointError

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {{k: row(k) for k in range(5000)}}
    with CheckpointLog(LocalStore({root!r})) as log:
        log.commit(snapshot(1, {{1: row(1)}}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, most))
        try:
            log.commit(snapshot(2, large))
        except CheckpointError as error:
            print(error)
        assert log.newest(verify=True).version == 1
        assert len(log.store.names("segments/")) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert load(log, log.commit(snapshot(2, large))) == large
        print("committed", log.newest(verify=True).version)
"""


def test_a_full_disk_leaves_the_version_before_and_the_same_snapshot_can_be_committed_later(
    tmp_path: Path,
) -> None:
    script = textwrap.dedent(FULL).format(tests=str(Path(__file__).parent), root=str(tmp_path / "log"))
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert out.returncode == 0, out.stderr
    refused, committed = out.stdout.splitlines()
    assert "File too large" in refused
    assert "segments/00000000000000000002-user-" in refused
    assert committed == "committed 2"


@pytest.mark.parametrize("folder", ["segments", "states", "manifests"])
def test_a_folder_that_cannot_be_written_fails_the_commit_and_nothing_else(
    tmp_path: Path, folder: str
) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log:
        log.commit(snapshot(1, {1: row(1)}))
        (tmp_path / folder).rename(tmp_path / "aside")
        (tmp_path / folder).write_text("a file where a folder should be")
        with pytest.raises(OSError, match=folder):
            log.commit(snapshot(2, {2: row(2)}))
        (tmp_path / folder).unlink()
        (tmp_path / "aside").rename(tmp_path / folder)
        assert log.newest(verify=True).version == 1
        assert load(log, log.commit(snapshot(2, {2: row(2)}))) == {1: row(1), 2: row(2)}

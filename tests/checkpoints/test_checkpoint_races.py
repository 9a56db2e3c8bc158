"""What happens between two writes of a commit, or while another reads."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pytest
from checkpointed import files, load, row, snapshot, to_delta

from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from onstream.errors import CheckpointError, DamagedError


class FakeHookedStore(LocalStore):
    """A real local store that calls `before` and `after` around each write, with the file's name."""

    def before(self, name: str) -> None: ...
    def after(self, name: str) -> None: ...

    def write(self, name: str, parts: Iterable[bytes | memoryview | pa.Buffer]) -> int:
        self.before(name)
        size = super().write(name, parts)
        self.after(name)
        return size


def refuse_manifests(name: str) -> None:
    if name.startswith("manifests/"):
        raise CheckpointError(f"{name} is refused")


def test_a_failed_commit_gives_its_room_back_at_once(tmp_path: Path) -> None:
    store = FakeHookedStore(tmp_path)
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        before = files(tmp_path)
        store.before = refuse_manifests
        with pytest.raises(CheckpointError, match="is refused"):
            log.commit(snapshot(2, {2: row(2)}))
        assert files(tmp_path) == before


def test_a_rollback_that_cannot_be_written_leaves_the_next_commit_where_it_was(tmp_path: Path) -> None:
    store = FakeHookedStore(tmp_path)
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        second = log.commit(snapshot(2, {2: row(2)}))
        store.before = refuse_manifests
        with pytest.raises(CheckpointError, match="is refused"):
            log.rollback(1)
        assert log.parent == second


def test_a_first_commit_that_failed_after_it_was_visible_can_be_repeated(tmp_path: Path) -> None:
    store = FakeHookedStore(tmp_path)
    with CheckpointLog(store) as log:
        store.after = refuse_manifests
        with pytest.raises(CheckpointError, match="is refused"):
            log.commit(snapshot(1, {1: row(1)}))
        assert load(log, log.newest(verify=True)) == {1: row(1)}
        del store.after
        again = log.commit(snapshot(1, {1: row(1)}))
        assert (again.version, again.parent) == (2, None)
        assert load(log, log.newest(verify=True)) == {1: row(1)}


def test_a_sweep_during_a_merge_removes_nothing_of_it(tmp_path: Path) -> None:
    store = FakeHookedStore(tmp_path)
    with CheckpointLog(store, keep=1) as log:
        for examples in range(1, 10):
            log.commit(snapshot(examples, {examples: row(examples)}))
        store.before = store.after = lambda _: log.sweep()
        assert log.compact(log.parent) == 1
        del store.before, store.after
        assert load(log, log.commit(snapshot(10, {}))) == {k: row(k) for k in range(1, 10)}
        assert log.verify() == []


def test_a_reader_that_the_writer_overtakes_finds_the_newer_version(tmp_path: Path) -> None:
    said: list[str] = []
    with CheckpointLog(LocalStore(tmp_path), keep=1) as log:
        log.commit(snapshot(1, {1: row(1)}))

        class FakeSlowStore(LocalStore):
            """A real local store; before the first file is opened, the writer commits and removes it."""

            def open(self, name: str) -> pa.NativeFile:
                if log.parent.version == 1:
                    log.commit(snapshot(2, {2: row(2)}))
                return super().open(name)

        reader = CheckpointLog(FakeSlowStore(tmp_path), report=said.append)
        assert reader.newest().version == 2
        assert said == []


def test_the_files_of_all_tables_are_opened_before_any_is_checked(tmp_path: Path) -> None:
    # The writer may remove a version while it is checked, which takes long; what is open stays readable.
    with CheckpointLog(LocalStore(tmp_path)) as log:
        manifest = log.commit(Snapshot(tables={"a": to_delta({1: row(1)}), "b": to_delta({2: row(2)})}))
    changed, gone = (tmp_path / manifest.tables[table].segments[0].name for table in ("a", "b"))
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    gone.unlink()
    with pytest.raises(DamagedError, match=f"{gone.name}.* is missing"):
        log.tables(manifest, {"a": None, "b": None})
    with pytest.raises(DamagedError, match=f"{changed.name}.* has checksum"):
        log.tables(manifest, {"a": None})
    with pytest.raises(CheckpointError, match="has no table 'c'"):
        log.tables(manifest, {"c": None})

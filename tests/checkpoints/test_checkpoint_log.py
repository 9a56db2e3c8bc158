import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from checkpointed import files, load, row, snapshot, to_delta

from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from onstream.contracts import State
from onstream.errors import CheckpointError, DamagedError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_version_binds_rows_states_positions_and_facts(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1), 2: row(2)}))
        log.commit(snapshot(2, {2: row(20), 3: row(3)}, deleted=[1]))
        first, second = log.read(1), log.read(2)
        assert load(log, first) == {1: row(1), 2: row(2)}
        assert load(log, second) == {2: row(20), 3: row(3)}
        assert log.states(first, "learner").arrays["w"].tolist() == [1, 1, 1]
        assert log.states(second, "learner").facts == {"examples": 2}
        assert (first.positions, second.positions) == ({"clicks": 1}, {"clicks": 2})
        assert (first.parent, second.parent) == (None, 1)
        assert log.newest() == second == log.parent
        assert log.verify() == []


def test_empty_deltas_and_unchanged_states_write_no_file(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        before = files(store.root)
        log.commit(snapshot(1, {}))
        assert set(files(store.root)) - set(before) == {"manifests/00000000000000000002.json"}
        assert load(log, log.read(2)) == {1: row(1)}


def test_a_table_of_no_rows_has_its_shape(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        manifest = log.commit(snapshot(1, {}))
        assert manifest.tables["user"].shape.dim == 2
        assert load(log, manifest) == {}


def test_a_table_that_is_not_named_keeps_rows_and_facts_and_a_state_does_not_stay(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}, table_facts={"user": {"policy": "adagrad"}}))
        manifest = log.commit(Snapshot(positions={"clicks": 2}))
        assert load(log, manifest) == {1: row(1)}
        assert manifest.tables["user"].facts == {"policy": "adagrad"}
        assert manifest.states == {}
        assert log.commit(Snapshot(table_facts={"user": {}})).tables["user"].facts == {}


def test_a_replaced_table_begins_anew_even_in_another_shape(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        wider = {2: row(2, dim=3)}
        with pytest.raises(CheckpointError, match="table 'user' has"):
            log.commit(Snapshot(tables={"user": to_delta(wider, dim=3)}))
        manifest = log.commit(Snapshot(tables={"user": to_delta(wider, dim=3)}, replace={"user"}))
        assert load(log, manifest) == wider
        assert manifest.tables["user"].after(log.read(1).tables["user"]) is None


def test_names_of_tables_and_states_may_be_anything(store: LocalStore) -> None:
    names = ["../../etc", "a/b", "ü ñ", ".", "", "x" * 300]
    with CheckpointLog(store) as log:
        log.commit(
            Snapshot(
                tables={name: to_delta({i: row(i)}) for i, name in enumerate(names)},
                states={name: State(facts={"name": name}) for name in names},
            )
        )
        manifest = log.newest()
        for i, name in enumerate(names):
            assert load(log, manifest, name) == {i: row(i)}
            assert log.states(manifest, name).facts == {"name": name}
        assert log.verify() == []


def test_what_is_not_there_is_said_with_what_is(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        manifest = log.commit(snapshot(1, {1: row(1)}))
        with pytest.raises(CheckpointError, match=r"no table 'item'; it has \['user'\]"):
            log.rows(manifest, "item")
        with pytest.raises(CheckpointError, match=r"no state 'meter'; it has \['learner'\]"):
            log.states(manifest, "meter")
        with pytest.raises(CheckpointError, match="no such table"):
            log.commit(Snapshot(table_facts={"item": {}}))
        with pytest.raises(CheckpointError, match="no version 9"):
            log.restore(9)
    with pytest.raises(CheckpointError, match="keep must be 1"):
        CheckpointLog(store, keep=0)


# -------------------------------------------------------------------------- restoring and damage


def test_an_empty_store_restores_nothing_and_takes_the_first_commit(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        assert log.newest() is None
        assert log.restore() is None
        assert log.commit(Snapshot()).version == 1


def test_a_store_with_versions_must_be_restored_before_a_commit(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
    with CheckpointLog(store) as log:
        with pytest.raises(CheckpointError, match="call restore"):
            log.commit(snapshot(2, {2: row(2)}))
        log.restore()
        assert load(log, log.commit(snapshot(2, {2: row(2)}))) == {1: row(1), 2: row(2)}


def test_after_damage_training_goes_on_from_the_version_before_under_a_new_number(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        second = log.commit(snapshot(2, {2: row(2)}))
    damage(store.root / second.tables["user"].segments[-1].name)
    said: list[str] = []
    with CheckpointLog(store, report=said.append) as log:
        assert log.newest().version == 2, "sizes alone do not show it"
        assert log.newest(verify=True).version == 1
        assert log.restore().version == 1
        assert all("version 2" in line and second.tables["user"].segments[-1].name in line for line in said)
        assert len(said) == 2
        third = log.commit(snapshot(3, {3: row(3)}))
        assert (third.version, third.parent) == (3, 1)
        assert load(log, log.newest(verify=True)) == {1: row(1), 3: row(3)}
        with pytest.raises(DamagedError):
            log.restore(2)
        assert [problem[:9] for problem in log.verify()] == ["version 2"]
        assert log.verify(3) == []


def test_a_file_of_another_size_is_noticed_without_reading_it(store: LocalStore) -> None:
    said: list[str] = []
    with CheckpointLog(store, report=said.append) as log:
        log.commit(snapshot(1, {1: row(1)}))
        name = log.commit(snapshot(2, {2: row(2)})).tables["user"].segments[-1].name
        (store.root / name).write_bytes((store.root / name).read_bytes()[:-1])
        assert log.newest().version == 1
        assert name in said[0]


def test_a_store_without_a_whole_version_is_never_begun_anew(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
    damage(store.root / "manifests/00000000000000000001.json")
    with CheckpointLog(store, report=lambda _: None) as log:
        assert log.newest() is None
        with pytest.raises(DamagedError, match=r"none of the versions \[1\] is whole"):
            log.restore()
        with pytest.raises(CheckpointError, match="call restore"):
            log.commit(Snapshot())


def test_rows_of_a_damaged_file_are_not_loaded_by_half(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        manifest = log.commit(snapshot(2, {2: row(2)}))
        damage(store.root / manifest.tables["user"].segments[1].name)
        with pytest.raises(DamagedError, match=manifest.tables["user"].segments[1].name):
            log.rows(manifest, "user")
        assert log.rows(manifest, "user", segments=manifest.tables["user"].segments[:1])


# ----------------------------------------------------------------------------- tags and rollback


def test_a_tag_points_to_its_version_until_it_moves(store: LocalStore) -> None:
    with CheckpointLog(store, keep=1) as log:
        log.commit(snapshot(1, {1: row(1)}))
        log.tag("production", 1)
        for examples in (2, 3):
            log.commit(snapshot(examples, {examples: row(examples)}))
        assert log.versions() == [1, 3]
        assert log.tags() == {"production": 1}
        assert log.newest("production").version == 1
        assert (log.resolve("production"), log.resolve("3"), log.resolve(3), log.resolve()) == (1, 3, 3, 3)
        log.tag("production", 3)
        log.commit(snapshot(4, {}))
        assert log.versions() == [1, 3, 4], "with the version to roll back to"
        log.tag("production", 4)
        log.commit(snapshot(5, {}))
        assert log.versions() == [3, 4, 5]
        log.untag("production")
        log.untag("production")
        assert log.newest("production") is None
        with pytest.raises(CheckpointError, match="no tag 'production'"):
            log.resolve("production")


@pytest.mark.parametrize("name", ["", "1", "12", "../x", "a/b", "-a", ".a", "a b", "a" * 65, "a\n"])
def test_a_tag_with_a_bad_name_is_refused(store: LocalStore, name: str) -> None:
    with CheckpointLog(store) as log:
        log.commit(Snapshot())
        for use in (lambda: log.tag(name, 1), lambda: log.untag(name)):
            with pytest.raises(CheckpointError, match="must begin with a letter"):
                use()


def test_only_a_whole_version_can_be_tagged(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        manifest = log.commit(snapshot(1, {1: row(1)}))
        with pytest.raises(DamagedError, match="missing"):
            log.tag("production", 2)
        (store.root / manifest.states["learner"].name).unlink()
        with pytest.raises(DamagedError, match=manifest.states["learner"].name):
            log.tag("production", 1)
        assert log.tags() == {}


def test_a_damaged_tag_is_said_and_nothing_is_removed_until_it_is_set_again(store: LocalStore) -> None:
    said: list[str] = []
    with CheckpointLog(store, keep=1, report=said.append) as log:
        log.commit(snapshot(1, {1: row(1)}))
        log.tag("production", 1)
        (store.root / "tags/staging").write_bytes((store.root / "tags/production").read_bytes())
        with pytest.raises(DamagedError, match="tags/staging"):
            log.newest("production")
        log.commit(snapshot(2, {}))
        assert log.versions() == [1, 2]
        assert "version 2 is committed" in said[0]
        assert "tags/staging" in said[0]
        log.untag("staging")
        log.untag("production")
        log.sweep()
        assert log.versions() == [2]


def test_rollback_makes_an_old_version_the_newest_and_the_next_grows_from_it(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
        log.commit(snapshot(2, {1: row(10), 2: row(2)}))
        back = log.rollback(1)
        assert (back.version, back.parent) == (3, 1)
        assert back.facts == {"examples": 1, "rolled_back_to": 1}
        assert back.positions == {"clicks": 1}
        assert load(log, back) == {1: row(1)}
        assert list(back.files()) == list(log.read(1).files())
        after = log.commit(snapshot(4, {4: row(4)}))
        assert load(log, after) == {1: row(1), 4: row(4)}
        assert "rolled_back_to" not in after.facts


def test_a_rollback_that_cannot_be_done_changes_nothing(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        first = log.commit(snapshot(1, {1: row(1)}))
        second = log.commit(snapshot(2, {2: row(2)}))
        (store.root / first.states["learner"].name).unlink()
        with pytest.raises(DamagedError):
            log.rollback(1)
        assert log.parent == second == log.newest()


def test_nothing_can_be_committed_again_before_anything_was(store: LocalStore) -> None:
    with CheckpointLog(store) as log, pytest.raises(CheckpointError, match="call restore"):
        log.recommit()


# ----------------------------------------------------------------------- retention and compaction


def test_the_newest_versions_stay_and_files_that_none_needs_go(store: LocalStore) -> None:
    with CheckpointLog(store, keep=2) as log:
        for examples in range(1, 6):
            log.commit(snapshot(examples, {examples: row(examples)}))
        assert log.versions() == [4, 5]
        assert len(store.names("segments/")) == 5
        assert len(store.names("states/")) == 2
        assert log.verify() == []


def test_a_damaged_version_never_takes_the_place_of_a_whole_one(store: LocalStore) -> None:
    with CheckpointLog(store, keep=2, report=lambda _: None) as log:
        for examples in (1, 2, 3):
            log.commit(snapshot(examples, {}))
        damage(store.root / "manifests/00000000000000000003.json")
        log.sweep()
        assert log.versions() == [2, 3]
        log.commit(snapshot(4, {}))
        assert log.versions() == [2, 3, 4]
        log.commit(snapshot(5, {}))
        assert log.versions() == [4, 5]


def test_the_restored_version_stays_until_the_next_commit(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        for examples in (1, 2, 3):
            log.commit(snapshot(examples, {examples: row(examples)}))
    with CheckpointLog(store, keep=1) as log:
        log.restore(1)
        log.sweep()
        assert log.versions() == [1, 3]
        assert load(log, log.commit(snapshot(4, {4: row(4)}))) == {1: row(1), 4: row(4)}


def test_compaction_shortens_the_chain_of_the_next_commit(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        expected = {}
        for examples in range(1, 10):
            log.commit(
                snapshot(examples, {examples: row(examples), 100: row(examples)}, deleted=[examples - 1])
            )
            expected = {examples: row(examples), 100: row(examples)}
        assert len(log.parent.tables["user"].segments) == 9
        assert log.compact(log.parent) == 1
        assert log.compact(log.parent) == 0, "one merge at a time"
        assert len(log.newest().tables["user"].segments) == 9
        log.sweep()
        manifest = log.commit(snapshot(10, {10: row(10)}))
        assert [s.rows for s in manifest.tables["user"].segments] == [2, 1]
        assert load(log, manifest) == {**expected, 10: row(10)}
        assert log.verify() == []


def test_deletions_outlive_a_merge_that_leaves_the_base_alone(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(0, {k: row(k) for k in range(5000)}))
        for key in range(8):
            log.commit(snapshot(key, {}, deleted=[key]))
        assert log.compact(log.parent) == 1
        manifest = log.commit(snapshot(8, {}))
        assert [(s.rows, s.deleted) for s in manifest.tables["user"].segments] == [(5000, 0), (0, 8)]
        assert set(load(log, manifest)) == set(range(8, 5000))


def test_compaction_goes_on_while_commits_do(store: LocalStore) -> None:
    with CheckpointLog(store, keep=1) as log:
        for examples in range(1, 10):
            log.commit(snapshot(examples, {examples: row(examples)}))
        old = log.parent
        log.commit(snapshot(10, {10: row(10)}))
        assert log.compact(old) == 1
        manifest = log.commit(snapshot(11, {11: row(11)}))
        assert [s.rows for s in manifest.tables["user"].segments] == [9, 1, 1]
        assert load(log, manifest) == {k: row(k) for k in range(1, 12)}


def test_what_was_merged_for_another_chain_is_dropped(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        for examples in range(1, 10):
            log.commit(snapshot(examples, {examples: row(examples)}))
        log.compact(log.parent)
        log.restore(5)
        manifest = log.commit(snapshot(6, {60: row(60)}))
        assert load(log, manifest) == {**{k: row(k) for k in range(1, 6)}, 60: row(60)}
        needed = {f.name for v in log.versions() for f in log.read(v).files()}
        assert needed == {*store.names("segments/"), *store.names("states/")}


def test_a_full_compaction_can_be_committed_by_itself(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1), 2: row(2)}))
        before = log.commit(snapshot(2, {2: row(20)}, deleted=[1]))
        assert log.compact(log.parent) == 0
        assert log.compact(log.parent, full=True) == 1
        after = log.recommit()
        assert [(s.rows, s.deleted) for s in after.tables["user"].segments] == [(1, 0)]
        assert load(log, after) == load(log, before) == {2: row(20)}
        assert replace(after, version=2, parent=1, tables={}) == replace(before, tables={})
        assert log.compact(log.parent, full=True) == 0


def test_a_compaction_that_is_stopped_leaves_nothing(store: LocalStore) -> None:
    stop = threading.Event()
    stop.set()
    with CheckpointLog(store) as log:
        for examples in (1, 2):
            log.commit(snapshot(examples, {examples: row(examples)}))
        before = files(store.root)
        assert log.compact(log.parent, full=True, stop=stop) == 0
        assert files(store.root) == before


def test_a_reader_applies_only_what_is_new_across_a_compaction(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        for examples in range(1, 10):
            log.commit(snapshot(examples, {examples: row(examples)}))
        old = log.parent.tables["user"]
        log.compact(log.parent)
        new = log.commit(snapshot(10, {10: row(10)})).tables["user"]
        assert new.after(old) == new.segments[1:]
        assert new.after(new) == ()
        assert old.after(new) is None, "a rollback must be loaded anew"


# -------------------------------------------------------------------------------------- one writer


def test_a_second_writer_is_refused_until_the_first_closes(store: LocalStore) -> None:
    with CheckpointLog(store) as first:
        first.commit(snapshot(1, {1: row(1)}))
        second = CheckpointLog(LocalStore(store.root))
        for use in (
            second.restore,
            lambda: second.rollback(1),
            second.sweep,
            lambda: second.commit(Snapshot()),
        ):
            with pytest.raises(CheckpointError, match="another job"):
                use()
        assert load(second, second.newest()) == {1: row(1)}
        second.tag("production", 1)
        assert first.tags() == {"production": 1}
    with second:
        assert second.restore().version == 1


def test_the_writer_sweeps_what_a_crash_left(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        log.commit(snapshot(1, {1: row(1)}))
    store.write("segments/00000000000000000002-user-00000000.arrow", [b"no manifest names it"])
    (store.root / ".tmp/left").write_bytes(b"half")
    with CheckpointLog(store) as log:
        log.restore()
        log.sweep()
        assert files(store.root) == sorted(
            ["manifests/00000000000000000001.json", *(f.name for f in log.parent.files())]
        )


# ------------------------------------------------------------------- what happens between two writes


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


def test_a_state_that_is_the_same_object_is_not_looked_at_again(store: LocalStore) -> None:
    class Counted(dict):
        """Arrays that count how often they are read."""

        reads = 0

        def items(self):
            Counted.reads += 1
            return super().items()

    kept = State(Counted(w=np.arange(3)))
    with CheckpointLog(store) as log:
        first = log.commit(Snapshot(states={"kept": kept, "new": State(facts={"n": 1})}))
        once = Counted.reads
        second = log.commit(Snapshot(states={"kept": kept, "new": State(facts={"n": 2})}))
        assert Counted.reads == once
        assert first.states["kept"] == second.states["kept"]
        assert first.states["new"] != second.states["new"]
        # Equal bytes of another object are found to be equal, and nothing is taken for granted after a restore.
        assert log.commit(Snapshot(states={"kept": State({"w": np.arange(3)})})).states == {
            "kept": first.states["kept"]
        }
        log.restore(1)
        log.commit(Snapshot(states={"kept": kept}))
        assert Counted.reads > once
        assert log.verify() == []

"""What versions of the log bind, how they are restored and rolled back, and that one writes."""

import numpy as np
import pytest
from checkpointed import damage, files, load, row, snapshot, to_delta

from onstream.checkpoints import CheckpointLog, LocalStore, Snapshot
from onstream.contracts import State
from onstream.errors import CheckpointError, DamagedError


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

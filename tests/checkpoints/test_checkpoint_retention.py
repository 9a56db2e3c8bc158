"""Which versions stay, and how chains are shortened while commits and readers go on."""

import threading
from dataclasses import replace

from checkpointed import damage, files, load, row, snapshot

from onstream.checkpoints import CheckpointLog, LocalStore


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

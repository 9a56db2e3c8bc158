"""Tags that are published to, rolled back and held."""

import threading

import pytest
from checkpointed import row, snapshot

from onstream.checkpoints import CheckpointLog, LocalStore, Move, Snapshot
from onstream.checkpoints.files import seal
from onstream.errors import CheckpointError, DamagedError


def commit(log: CheckpointLog, *examples: int) -> None:
    for n in examples:
        log.commit(snapshot(n, {n: row(n)}))


def test_a_tag_that_follows_every_version_keeps_one_besides_and_the_log_does_not_grow(
    store: LocalStore,
) -> None:
    with CheckpointLog(store, keep=1) as log:
        for n in range(1, 40):
            commit(log, n)
            log.publish("production", n)
        assert log.versions() == [37, 38, 39]
        assert len(log.tag_details()["production"].before) == 16
        assert log.verify() == []


def test_rolled_back_it_points_where_it_pointed_before_and_publishing_leaves_it_until_released(
    store: LocalStore,
) -> None:
    with CheckpointLog(store, clock=iter(range(100)).__next__) as log:
        commit(log, 1, 2, 3)
        log.publish("production", 1)
        log.publish("production", 2)
        assert log.tag_details()["production"].before == (Move(1, 0),)
        # Another process, while this one trains.
        assert CheckpointLog(store).roll_back_tag("production").version == 1
        tag = log.publish("production", 3)
        assert (tag.version, tag.held) == (1, True)
        assert log.tags() == {"production": 1}
        assert not CheckpointLog(store).release("production").held
        assert log.publish("production", 3).version == 3
        assert log.roll_back_tag("production").version == 1


def test_a_tag_that_a_person_moved_stays_where_it_is(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        commit(log, 1, 2)
        log.tag("production", 1)
        assert log.publish("production", 2).version == 1
        log.untag("production")
        assert log.publish("production", 2).version == 2


def test_rolling_back_again_goes_further_and_passes_over_versions_that_are_gone_or_damaged(
    store: LocalStore,
) -> None:
    with CheckpointLog(store, keep=5) as log:
        commit(log, 1, 2, 3, 4, 5)
        for version in (1, 2, 3, 4, 5):
            log.publish("production", version)
        assert log.roll_back_tag("production").version == 4
        (store.root / log.read(3).states["learner"].name).unlink()
        store.remove("manifests/00000000000000000002.json")
        assert log.roll_back_tag("production").version == 1
        with pytest.raises(
            CheckpointError, match=r"no version where it pointed before is still there; .* \[1,"
        ):
            log.roll_back_tag("production")
        assert log.tags() == {"production": 1}


def test_it_can_be_rolled_back_to_any_version_or_other_tag(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        commit(log, 1, 2, 3)
        log.tag("good", 2)
        for version in (1, 2, 3):
            log.publish("production", version)
        tag = log.roll_back_tag("production", "good")
        assert (tag.version, tag.before) == (2, (Move(1, tag.before[0].since),))
        assert log.roll_back_tag("production", 3).version == 3
        for name, which, text in (
            ("production", 9, "no version 9"),
            ("production", "beta", "no tag 'beta'"),
            ("beta", None, "no tag 'beta'"),
        ):
            with pytest.raises(CheckpointError, match=text):
                log.roll_back_tag(name, which)
        with pytest.raises(CheckpointError, match="no tag 'beta'"):
            log.release("beta")


def test_only_a_version_that_is_there_is_published_and_a_damaged_tag_is_not_moved(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        commit(log, 1, 2)
        with pytest.raises(DamagedError, match="missing"):
            log.publish("production", 3)
        log.publish("production", 1)
        (store.root / "tags/production").write_bytes(b"{}")
        with pytest.raises(DamagedError, match="tags/production"):
            log.publish("production", 2)
        log.tag("production", 2)
        assert log.tags() == {"production": 2}


def test_a_tag_of_an_earlier_release_is_read(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        commit(log, 1, 2)
        store.write("tags/production", [seal({"tag": "production", "version": 1})])
        assert log.tags() == {"production": 1}
        assert not log.tag_details()["production"].held
        log.publish("production", 2)
        assert log.roll_back_tag("production").version == 1


def test_publishing_and_rolling_back_at_once_loses_no_hold(store: LocalStore) -> None:
    with CheckpointLog(store, keep=3) as log:
        commit(log, 1)
        log.publish("production", 1)
        commit(log, 2)
        log.publish("production", 2)
        begun = threading.Event()

        def roll_back() -> None:
            begun.wait(30)
            CheckpointLog(store).roll_back_tag("production")

        person = threading.Thread(target=roll_back)
        person.start()
        n = 2
        while n < 20 or person.is_alive():
            n += 1
            commit(log, n)
            log.publish("production", n)
            begun.set()
        person.join()
        tag = log.tag_details()["production"]
        assert tag.held
        assert log.publish("production", n).version == tag.version < n
        assert log.newest("production", verify=True).version == tag.version


def test_a_damaged_tag_is_no_business_of_those_who_follow_another(store: LocalStore) -> None:
    with CheckpointLog(store) as log:
        commit(log, 1, 2)
        log.tag("production", 1)
        store.write("tags/other", [b"damaged"])
        assert log.resolve("production") == 1
        with pytest.raises(DamagedError, match="tags/other"):
            log.resolve("other")
        with pytest.raises(CheckpointError):
            log.resolve("missing")


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

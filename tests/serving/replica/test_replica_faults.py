"""What goes wrong does not stop a replica."""

import threading

import pytest

from onstream.checkpoints import LocalStore
from onstream.errors import UnavailableError
from onstream.serving.replica import Replica
from tests.jobs.watch import run
from tests.serving.followed import answers_as_trained, tiny_job


def damage(trained, version, what):
    manifest = trained.log.read(version)
    names = {
        "rows": manifest.tables["d4-adagrad"].segments[-1].name,
        "parameters": manifest.states["learner"].name,
        "transforms": manifest.states["features"].name,
        "network": manifest.states["network"].name,
        "manifest": f"manifests/{version:020d}.json",
    }
    path = trained.directory / names[what]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path, content


@pytest.mark.parametrize("what", ["rows", "parameters", "transforms", "manifest"])
def test_a_damaged_version_is_passed_over_told_once_and_the_next_one_is_served(trained, what):
    told = []
    replica = Replica(trained.directory, report=told.append)
    replica.poll()
    good = max(trained.at)
    broken = trained.train(3)
    path, _ = damage(trained, broken, what)
    for _ in range(3):
        assert not replica.poll()
    assert answers_as_trained(replica, trained, good)
    assert replica.status().error == told[0]
    assert f"version {broken} cannot be served" in told[0]
    assert path.name in told[0]
    assert len(told) == 1
    with trained.log as log:
        log.restore(good)
        log.recommit()
    newest = trained.note()
    assert replica.poll()
    assert answers_as_trained(replica, trained, newest)
    assert replica.status().error is None


def test_a_damaged_network_is_met_by_a_replica_that_has_none_yet(trained):
    newest = max(trained.at)
    path, content = damage(trained, newest, "network")
    told = []
    replica = Replica(trained.directory, report=told.append)
    assert not replica.poll()
    with pytest.raises(UnavailableError, match=path.name), replica.reading():
        pass
    path.write_bytes(content)
    # It is looked at again, but not at every poll.
    assert any(replica.poll() for _ in range(200))
    assert answers_as_trained(replica, trained, newest)


def test_an_older_whole_version_is_better_than_none(trained):
    _, second, third = sorted(trained.at)
    damage(trained, third, "parameters")
    replica = Replica(trained.directory, report=lambda _: None)
    assert replica.poll()
    assert answers_as_trained(replica, trained, second)
    assert f"version {third} cannot be served" in replica.status().error


def test_a_version_that_cannot_be_loaded_for_any_reason_gives_way_to_an_older_one(trained):
    _, second, third = sorted(trained.at)
    too_large = {trained.log.read(third).states["learner"].name}

    class FakeLarge(LocalStore):
        tried = 0

        def open(self, name):
            if name in too_large:
                self.tried += 1
                raise MemoryError("no room")
            return super().open(name)

    told = []
    store = FakeLarge(trained.directory)
    replica = Replica(store, report=told.append)
    assert replica.poll()
    assert answers_as_trained(replica, trained, second)
    assert replica.status().error == f"version {third} cannot be served: MemoryError: no room"
    for _ in range(10):
        assert not replica.poll()
    assert store.tried == len(told) == 1
    too_large.clear()
    assert any(replica.poll() for _ in range(200))
    assert answers_as_trained(replica, trained, third)


class FakeSwept(LocalStore):
    """A store of which a file vanishes, and another version appears, as it is opened."""

    def __init__(self, root, folder, appear):
        super().__init__(root)
        self._folder = folder
        self._appear = appear

    def open(self, name):
        if self._appear and name.startswith(self._folder):
            appear, self._appear = self._appear, None
            appear()
            raise FileNotFoundError(name)
        return super().open(name)


@pytest.mark.parametrize("folder", ["manifests/", "segments/", "states/"])
def test_a_version_that_is_removed_while_it_is_loaded_gives_way_to_the_next(trained, folder):
    told, newer = [], []
    store = FakeSwept(trained.directory, folder, lambda: newer.append(trained.train(2)))
    replica = Replica(store, report=told.append)
    assert replica.poll()
    assert answers_as_trained(replica, trained, newer[0])
    assert "is missing" in told[0]


def test_a_version_without_a_network_is_not_served_and_the_reason_is_told_once(source, tmp_path):
    told = []
    replica = Replica(tmp_path / "model", report=told.append)
    for batches in (2, 2):
        run(tiny_job(source, tmp_path / "model").replace({"learner.servable": False}), reports=batches)
        assert not replica.poll()
    assert len(told) == 1
    with pytest.raises(UnavailableError, match="it holds no exported network"), replica.reading():
        pass


def test_following_goes_on_when_the_folder_cannot_be_read(trained):
    class FakeFailing(LocalStore):
        fail = False

        def names(self, prefix):
            if self.fail:
                self.fail = False
                failed.set()
                raise RuntimeError("of another kind")
            return super().names(prefix)

    failed, stop, told = threading.Event(), threading.Event(), []
    store = FakeFailing(trained.directory)
    replica = Replica(store, report=told.append)
    replica.poll()
    thread = threading.Thread(target=replica.follow, args=(stop, 0.001))
    thread.start()
    try:
        store.fail = True
        assert failed.wait(30)
        newest = trained.train(2)
        reached = threading.Event()
        for _ in range(3_000):
            if replica.status().version == newest:
                break
            reached.wait(0.01)
        assert answers_as_trained(replica, trained, newest)
    finally:
        stop.set()
        thread.join(30)
    assert told == ["following failed: RuntimeError: of another kind"]

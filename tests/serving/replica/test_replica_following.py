"""What replicas follow, while they are read."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onstream import Expire, Id, Label, Torch
from onstream.checkpoints import LocalStore
from onstream.errors import UnavailableError
from onstream.serving.replica import Replica
from tests.jobs.stored import rows
from tests.jobs.watch import run
from tests.serving.followed import (
    Heads,
    Trained,
    answers_as_trained,
    equal,
    predicted,
    settle,
    some_rows,
    tiny_job,
)


def test_every_new_version_answers_after_a_poll(source, tmp_path):
    trained = Trained(source, tmp_path / "model")
    replica = Replica(trained.directory)
    assert not replica.poll()
    for batches in (1, 10, 40, 2):
        version = trained.train(batches)
        assert replica.poll()
        assert answers_as_trained(replica, trained, version)
        assert not replica.poll()


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_to_the_log_a_replica_answers_as_one_loaded_anew(history, tmp_path_factory, data):
    trained = Trained(history.source, tmp_path_factory.mktemp("any") / "model")
    shutil.copytree(history.directory, trained.directory)
    trained.at = dict(history.at)
    followers = {tag: Replica(trained.directory, tag=tag) for tag in (None, "production")}
    target = {None: max(trained.at), "production": None}
    for _ in range(data.draw(st.integers(1, 8))):
        versions = st.sampled_from(sorted(trained.at))
        match data.draw(st.sampled_from(["train", "compact", "roll back", "tag", "tag"])):
            case "train":
                target[None] = trained.train(data.draw(st.integers(1, 12)))
            case "compact":
                target[None] = trained.compact()
            case "roll back":
                target[None] = trained.roll_back(data.draw(versions))
            case "tag":
                target["production"] = data.draw(versions)
                trained.log.tag("production", target["production"])
        if data.draw(st.booleans()):
            continue
        for tag, follower in followers.items():
            follower.poll()
            if target[tag] is None:
                assert follower.status().version is None
                continue
            anew = Replica(trained.directory, tag=tag)
            anew.poll()
            assert answers_as_trained(follower, trained, target[tag])
            assert answers_as_trained(anew, trained, target[tag])
            assert follower.status().num_rows == anew.status().num_rows
            assert follower.status().error is None


def test_a_replica_of_a_tag_follows_it_back_and_forth(trained):
    first, second, third = sorted(trained.at)
    replica = Replica(trained.directory, tag="production")
    assert not replica.poll()
    assert "there is no tag 'production'" in replica.status().error
    for version in (second, first, third, first):
        trained.log.tag("production", version)
        assert replica.poll()
        assert answers_as_trained(replica, trained, version)
        assert replica.status().error is None
    trained.log.untag("production")
    assert not replica.poll()
    assert answers_as_trained(replica, trained, first)
    assert "there is no tag 'production'" in replica.status().error


def test_a_replica_of_a_number_serves_that_version_for_good(trained):
    first, *_ = sorted(trained.at)
    replica = Replica(trained.directory, tag=str(first))
    assert replica.poll()
    trained.compact()
    assert not replica.poll()
    assert answers_as_trained(replica, trained, first)


def test_merged_segments_of_rows_that_a_replica_has_are_not_read_again(trained):
    replica = Replica(FakeCounting(trained.directory))
    settle(replica)
    replica._store.opened.clear()
    newest = trained.compact()
    settle(replica)
    # The copy that becomes the next version is new, so the first time it reads everything.
    replica._store.opened.clear()
    newest = trained.compact()
    assert settle(replica)
    assert answers_as_trained(replica, trained, newest)
    assert not [name for name in replica._store.opened if name.startswith("segments/")]


class FakeCounting(LocalStore):
    """Remembers which files were opened."""

    def __init__(self, root):
        super().__init__(root)
        self.opened: list[str] = []

    def open(self, name):
        self.opened.append(name)
        return super().open(name)


def test_a_poll_that_finds_nothing_new_opens_no_file(history):
    store = FakeCounting(history.directory)
    replica = Replica(store)
    assert replica.poll()
    store.opened.clear()
    assert not replica.poll()
    assert store.opened == []


def test_rows_that_the_trainer_deleted_are_not_kept(trained):
    log, newest = trained.log, max(trained.at)
    manifest = log.read(newest)
    assert sum(s.deleted for chain in manifest.tables.values() for s in chain.segments[1:]) > 20
    replica = Replica(trained.directory, tag="production")
    for version in sorted(trained.at):
        log.tag("production", version)
        assert replica.poll()
    held = {name: len(rows(log.rows(manifest, name), None)) for name in replica.status().num_rows}
    assert replica.status().num_rows == held


def test_a_log_begun_anew_in_the_same_folder_is_followed(trained, history):
    replica = Replica(trained.directory)
    replica.poll()
    before = replica.status().version
    shutil.rmtree(trained.directory)
    trained.at.clear()
    assert not replica.poll()
    version = trained.train(5)
    assert version < before
    assert replica.poll()
    assert answers_as_trained(replica, trained, version)


def moved(features):
    return [replace(f, expiry=Expire("20d")) if f.name == "item" else f for f in features]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda features: [*features, Id("color", dim=4, column="item")], id="one more"),
        pytest.param(lambda features: [f for f in features if f.name != "tags"], id="one less"),
        pytest.param(moved, id="another table"),
        pytest.param(lambda features: [*features, Label("cheap", column="click")], id="another label"),
    ],
)
def test_a_job_that_goes_on_with_other_features_is_followed(source, tmp_path, change):
    def job(source, directory):
        made = tiny_job(source, directory)
        features = [*(change(list(made.features)) if changed else made.features)]
        labels = [f.name for f in features if isinstance(f, Label)]
        return made.replace({"features": features, "learner": Torch(lambda: Heads(labels))})

    changed = False
    trained = Trained(source, tmp_path / "model", job)
    replica = Replica(trained.directory)
    trained.train(20)
    assert replica.poll()
    for turn in range(3):
        changed = turn < 2
        version = trained.train(8)
        assert replica.poll()
        assert answers_as_trained(replica, trained, version)


def test_readers_always_see_one_whole_version_while_training_goes_on(source, tmp_path):
    directory, asked = tmp_path / "model", some_rows(source)
    replica, stop, seen, failed = Replica(directory), threading.Event(), {}, []

    def read():
        while not stop.is_set():
            try:
                number, found = predicted(replica, asked)
            except UnavailableError:
                continue
            except Exception as error:
                failed.append(error)
                return
            seen.setdefault((number, found["click"].tobytes()), found["click"])

    follower = threading.Thread(target=replica.follow, args=(stop, 0.001))
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (follower, *readers):
        thread.start()
    run(tiny_job(source, directory, checkpoint_every_s=1e-3, keep=10_000))
    stop.set()
    for thread in (follower, *readers):
        thread.join(60)
        assert not thread.is_alive()
    assert failed == []
    numbers = [number for number, _ in seen]
    assert len(numbers) > 3
    assert len(set(numbers)) == len(numbers), "two predictions of one version differ"
    for number, values in [(number, values) for (number, _), values in seen.items()][
        :: max(1, len(seen) // 10)
    ]:
        alone = Replica(directory, tag=str(number))
        alone.poll()
        np.testing.assert_array_equal(predicted(alone, asked)[1]["click"], values)


def test_a_version_stays_as_it_is_while_it_is_read_and_others_come(trained):
    replica = Replica(trained.directory)
    replica.poll()
    first = max(trained.at)
    with replica.reading() as held:
        second = trained.train(5)
        assert replica.poll()
        assert answers_as_trained(replica, trained, second)
        third = trained.train(5)
        assert not replica.poll(), "the copy to be written is still being read"
        assert answers_as_trained(replica, trained, second)
        assert equal(held.predict(trained.rows), trained.at[first])
    assert replica.poll()
    assert answers_as_trained(replica, trained, third)

"""Replicas: what they predict, what they follow, and what does not stop them."""

import gc
import shutil
import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onstream import Expire, Id, Label, Number, Tensor, Torch
from onstream.checkpoints import LocalStore
from onstream.errors import RequestError, UnavailableError
from onstream.features import Features
from onstream.serving.model import Input
from onstream.serving.replica import Replica
from onstream.serving.version import signature_of
from tests.jobs.small import small_job, write_clicks
from tests.jobs.stored import rows
from tests.jobs.watch import run
from tests.serving.followed import Heads, Trained, equal, settle, some_rows, tiny_job


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", 6_400)


@pytest.fixture(scope="module")
def history(source, tmp_path_factory):
    """Three versions, the last of which is at the end of several checkpoints' deletions. Read only."""
    trained = Trained(source, tmp_path_factory.mktemp("history") / "model")
    for batches in (30, 30, 30):
        trained.train(batches)
    return trained


@pytest.fixture
def trained(history, tmp_path):
    """A copy of the history, to be changed."""
    copy = Trained(history.source, tmp_path / "model")
    shutil.copytree(history.directory, copy.directory)
    copy.at = dict(history.at)
    return copy


def predicted(replica, rows):
    with replica.reading() as version:
        return version.version, version.predict(rows)


def answers_as_trained(replica, trained, version) -> bool:
    number, found = predicted(replica, trained.rows)
    return number == version and equal(found, trained.at[version])


# -------------------------------------------------------------------------------------------- predicting


def test_a_replica_predicts_as_its_trainer(source, tmp_path):
    job = small_job(source, tmp_path / "model", servable=True, checkpoint_every_s=1e9)
    trainer = job.trainer()
    trainer.run()
    replica = Replica(tmp_path / "model")
    assert replica.poll()
    rows = some_rows(source)
    assert equal(predicted(replica, rows)[1], trainer.predict(rows))


def test_a_process_without_the_users_code_predicts_the_same(history, tmp_path):
    newest = max(history.at)
    with pa.ipc.new_file(tmp_path / "rows.arrow", history.rows.schema) as writer:
        writer.write_batch(history.rows)
    code = f"""
import sys
import pyarrow as pa
from onstream.serving.replica import Replica
replica = Replica({str(history.directory)!r})
assert replica.poll()
rows = pa.ipc.open_file("rows.arrow").get_batch(0)
with replica.reading() as version:
    sys.stdout.buffer.write(version.predict(rows)["click"].tobytes())
assert "tests" not in sys.modules
assert "onstream.job" not in sys.modules and "onstream.trainer" not in sys.modules
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, check=False)
    assert (found.returncode, found.stderr.decode()) == (0, "")
    assert found.stdout == history.at[newest]["click"].tobytes()


def test_rows_may_be_mappings_or_several_record_batches(history):
    replica, newest = Replica(history.directory), max(history.at)
    replica.poll()
    rows = history.rows
    columns = [name for name in rows.schema.names if name not in ("click", "day")]
    parts = [rows.slice(0, 5), rows.slice(5).select(columns[::-1]), rows.slice(0, 0)]
    mappings = [{name: row[name] for name in columns} for row in rows.to_pylist()]
    for form in (parts, mappings):
        assert equal(predicted(replica, form)[1], history.at[newest])
    assert predicted(replica, [])[1]["click"].shape == (0,)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"item": 3}], "row 0: missing column 'user'"),
        ([{"nothing": 3}], "none of the columns"),
        ([3], "row 0 must be a mapping of column to value, got int"),
        ([{"user": 1, "item": 1}, {"user": "a", "item": 2}], "column 'user': values of these rows do not go"),
        (
            [{"user": 1, "item": i + 0.5 * (i == 2), "tags": [], "price": 1} for i in range(4)],
            "row 2: column 'item': not a whole number, got '2.5'",
        ),
        (
            [{"user": 1, "item": 1, "tags": [], "price": p} for p in ("1", "x", "y")],
            r"row 1: column 'price': not a number, got 'x' \(1 more rows are bad\)",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_column_its_place_and_the_reason(history, rows, message):
    replica = Replica(history.directory)
    replica.poll()
    with replica.reading() as version, pytest.raises(RequestError, match=message):
        version.predict(rows)


def test_a_bad_row_of_several_batches_is_named_by_batch_and_row(history):
    replica = Replica(history.directory)
    replica.poll()
    bad = pa.RecordBatch.from_pylist([{"user": 1, "item": 0.5, "tags": [1], "price": 2.0}])
    with replica.reading() as version, pytest.raises(RequestError, match="batch 1, row 0: column 'item'"):
        version.predict([history.rows, bad])


def test_the_signature_tells_columns_kinds_and_labels(history):
    replica = Replica(history.directory)
    replica.poll()
    signature = replica.signature()
    assert signature.inputs == (
        Input("user", ("id",)),
        Input("item", ("id",)),
        Input("tags", ("list",), (-1,)),
        Input("price", ("number",)),
    )
    assert [label.name for label in signature.outputs] == ["click"]


def test_a_column_that_several_features_read_is_one_input():
    declared = [
        Id("price_id", column="price"),
        Number("price"),
        Number("bucket", column="price", bounds=(1.0, 2.0), dim=2),
        Tensor("image", shape=(2, 3)),
        Label("click"),
    ]
    features = Features(declared)
    assert signature_of(features.describe(), features).inputs == (
        Input("price", ("id", "number")),
        Input("image", ("tensor",), (2, 3)),
    )


def test_many_threads_may_read_one_version_at_once(history):
    replica, newest = Replica(history.directory), max(history.at)
    replica.poll()
    wrong = []

    def read():
        wrong.extend(i for i in range(20) if not answers_as_trained(replica, history, newest))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


# --------------------------------------------------------------------------------------------- following


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


# ------------------------------------------------------------------------------------------ what goes wrong


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


def test_status_tells_version_age_and_rows(history):
    replica = Replica(history.directory)
    empty = replica.status()
    assert (empty.version, empty.cut_s, empty.swapped_s, empty.num_rows, empty.error) == (
        None,
        None,
        None,
        {},
        None,
    )
    replica.poll()
    status = replica.status()
    assert status.version == max(history.at)
    assert status.cut_s == history.log.read(status.version).facts["time"]
    assert status.cut_s < status.swapped_s
    assert sum(status.num_rows.values()) > 200


def test_a_closed_replica_lets_go_of_its_memory_and_answers_no_more(trained):
    replica = Replica(trained.directory)
    replica.poll()
    trained.train(1)
    replica.poll()
    with replica.reading() as version:
        tables = weakref.ref(version._tables)
    del version
    replica.close()
    gc.collect()
    assert tables() is None
    with pytest.raises(UnavailableError), replica.reading():
        pass
    assert not replica.poll()
    replica.close()

"""A served model: who answers which request, when it is ready, and what is recorded."""

import threading
import time
from concurrent.futures import wait

import numpy as np
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from onstream.errors import NotFoundError, RequestError, UnavailableError
from onstream.serving.metrics import Metrics
from onstream.serving.served import Served, goes_to
from onstream.serving.settings import ModelSettings, Share, parse_share
from onstream.streams import Log
from tests.serving.clicks import BOUND_S, copied, log_of, rows


class Counted(Metrics):
    """Metrics that can be asked."""

    def value(self, name, **labels):
        """The value of a sample, 0 if there is none yet."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.render().decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert len(found) <= 1, found
        return found[0] if found else 0.0


def until(holds):
    """Wait for what other threads bring about."""
    end = time.monotonic() + BOUND_S
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < end
        pause.wait(0.005)


@pytest.fixture
def metrics():
    return Counted()


@pytest.fixture
def serving(metrics):
    made = []

    def serve(directory, *, ready=True, first_request=0, **settings):
        made.append(
            Served(
                "clicks", ModelSettings(directory=directory, **settings), metrics, first_request=first_request
            )
        )
        if ready:
            wanted = 1 + sum(settings.get(name) is not None for name in ("canary", "shadow"))
            until(lambda: len(made[-1].condition().loaded) == wanted)
        return made[-1]

    yield serve
    for model in made:
        model.close()


def answer(model, batch=None, **options):
    return model.predict(rows(3) if batch is None else batch, **options).result(BOUND_S)


def test_the_newest_version_answers_and_says_so(trained, serving):
    model = serving(trained)
    assert model.versions() == (2,)
    found = answer(model)
    assert found.version == 2
    assert found.predictions["click"].shape == (3,)
    assert [column.name for column in model.signature().inputs] == ["user", "price"]


def test_a_tag_is_served_and_followed_back_and_forth(trained, serving, tmp_path):
    directory = copied(trained, tmp_path)
    log = log_of(directory)
    log.tag("production", 1)
    model = serving(directory, tag="production")
    assert answer(model).version == 1
    log.tag("production", 2)
    until(lambda: model.versions() == (2,))
    assert answer(model).version == 2
    log.tag("production", 1)
    until(lambda: model.versions() == (1,))
    assert answer(model).version == 1


def test_columns_that_the_model_does_not_read_change_nothing(trained, serving):
    model = serving(trained)
    batch = rows(3)
    more = pa.record_batch({"extra": ["a", "b", "c"], "price": batch["price"], "user": batch["user"]})
    assert answer(model, more).predictions["click"].tolist() == answer(model).predictions["click"].tolist()


def test_a_column_that_is_there_twice_is_refused(trained, serving):
    batch = rows(3)
    double = pa.RecordBatch.from_arrays(
        [batch["user"], batch["user"], batch["price"]], ["user", "user", "price"]
    )
    with pytest.raises(RequestError, match="column 'user' is in the request more than once"):
        serving(trained).predict(double)


def test_a_bad_row_is_named(trained, serving):
    bad = pa.record_batch({"user": [1, 2], "price": ["3", "cheap"]})
    with pytest.raises(RequestError, match=r"row 1: .*price"):
        answer(serving(trained), bad)


# ------------------------------------------------------------------------------------- whose request


def test_the_canary_answers_its_share_and_always_of_the_same_requests(trained, serving, metrics):
    by_canary = []
    for _ in range(2):
        model = serving(trained, canary=Share("old", 0.3), max_queue_requests=1000)
        assert model.versions() == (2, 1)
        futures = [model.predict(rows(1, i)) for i in range(1000)]
        by_canary.append([future.result(BOUND_S).version == 1 for future in futures])
    assert by_canary[0] == by_canary[1]
    assert 260 < sum(by_canary[0]) < 340
    # Not one in three, nor the first three hundred: whoever asks in turns gets both.
    assert 0 < sum(by_canary[0][:50]) < 50
    # Metrics tell them apart. They are those of the model that took the name last.
    assert metrics.value("onstream_prediction_count", route="canary") == sum(by_canary[1])
    assert metrics.value("onstream_prediction_count", route="usual") == 1000 - sum(by_canary[1])


def test_a_canary_that_has_no_version_gets_nothing(trained, serving):
    model = serving(trained, canary=Share("nothing", 1.0), ready=False)
    until(lambda: model.not_ready() is None)
    assert {answer(model).version for _ in range(20)} == {2}


def test_a_share_is_a_share_of_all_ids():
    draws = np.random.default_rng(0).integers(0, 2**64, 10_000, np.uint64)
    for share in (0.01, 0.5, 1.0):
        assert abs(np.mean([goes_to(int(d), share) for d in draws]) - share) < 0.02


def test_the_shadow_scores_its_share_and_both_are_recorded(trained, serving, metrics, tmp_path):
    path = tmp_path / "record.db"
    model = serving(trained, shadow=Share("old", 0.5), record=path)
    answers = [answer(model, rows(2, i)) for i in range(100)]
    assert {found.version for found in answers} == {2}
    assert model.drain(BOUND_S)
    model.close()
    with Log(path, follow=False) as log:
        chunks = log.read({}, max_rows=10_000, stop=threading.Event())
        kept = pa.Table.from_batches([chunk.batch for chunk in chunks]).to_pandas()
    usual, shadow = kept[kept.route == "usual"], kept[kept.route == "shadow"]
    assert usual.prediction.map(lambda p: p[0]).tolist() == [
        value for found in answers for value in found.predictions["click"]
    ]
    assert set(usual.version) == {2}
    assert set(shadow.version) == {1}
    assert 2 * 30 < len(shadow) < 2 * 70
    pairs = shadow.merge(usual, on=["request", "row", "label"])
    assert len(pairs) == len(shadow)
    far = (pairs.prediction_x.map(lambda p: p[0]) - pairs.prediction_y.map(lambda p: p[0])).abs()
    assert far.min() > 0
    assert metrics.value("onstream_shadow_difference_count") == len(shadow)
    assert metrics.value("onstream_shadow_difference_sum") == pytest.approx(far.sum(), rel=1e-3)
    assert metrics.value("onstream_prediction_count", route="shadow") == len(shadow)
    assert metrics.value("onstream_shadow_dropped_requests_total") == 0
    assert metrics.value("onstream_unrecorded_requests_total") == 0


def test_a_shadow_that_cannot_score_is_counted_and_changes_no_answer(trained, serving, metrics):
    model = serving(trained, shadow=Share("nothing", 1.0), ready=False)
    until(lambda: model.not_ready() is None)
    assert {answer(model).version for _ in range(20)} == {2}
    until(lambda: metrics.value("onstream_shadow_dropped_requests_total") == 20)


def test_a_request_may_name_any_loaded_version(trained, serving, metrics):
    model = serving(trained, canary=Share("old", 0.5), shadow=Share("old", 1.0))
    both = {version: answer(model, version=version) for version in (1, 2)}
    assert {version: found.version for version, found in both.items()} == {1: 1, 2: 2}
    assert (both[1].predictions["click"] != both[2].predictions["click"]).all()
    with pytest.raises(NotFoundError, match="version 3 of model 'clicks' is not loaded; loaded: 2, 1"):
        model.predict(rows(1), version=3)
    # Who names a version is nobody's sample.
    model.drain(BOUND_S)
    assert metrics.value("onstream_shadow_difference_count") == 0


def test_a_request_whose_version_went_while_it_waited_is_not_answered_by_another(trained, serving, tmp_path):
    directory = copied(trained, tmp_path)
    log = log_of(directory)
    log.tag("production", 1)
    model = serving(directory, tag="production")
    began, go_on = threading.Semaphore(0), threading.Event()
    run = model._usual.batcher._run

    def held(*call):
        began.release()
        assert go_on.wait(BOUND_S)
        return run(*call)

    model._usual.batcher._run = held
    named, any_version = model.predict(rows(1), version=1), model.predict(rows(1))
    assert began.acquire(timeout=BOUND_S)
    log.tag("production", 2)
    until(lambda: model.versions() == (2,))
    go_on.set()
    with pytest.raises(NotFoundError, match="version 1 is not loaded any more; version 2 is"):
        named.result(BOUND_S)
    assert any_version.result(BOUND_S).version == 2


# ------------------------------------------------------------------------------------------- readiness


def test_a_directory_that_comes_later_is_waited_for(trained, serving, tmp_path):
    model = serving(tmp_path / "model", ready=False)
    assert "no version is loaded yet" in model.not_ready()
    assert model.versions() == ()
    for ask in (model.signature, lambda: model.predict(rows(1)), lambda: model.predict(rows(1), version=1)):
        with pytest.raises(UnavailableError, match="no version of the model is loaded"):
            ask()
    copied(trained, tmp_path)
    until(lambda: model.not_ready() is None)
    assert answer(model).version == 2


def test_a_version_that_is_too_old_makes_it_not_ready_but_still_answers(trained, serving, metrics):
    model = serving(trained, max_staleness_s=0.001)
    assert "version 2 was cut" in model.not_ready()
    assert "at most 0.001 s old" in model.not_ready()
    assert metrics.value("onstream_model_ready", model="clicks") == 0
    assert answer(model).version == 2
    fresh = serving(trained, max_staleness_s=1e9)
    assert fresh.not_ready() is None
    assert metrics.value("onstream_model_ready", model="clicks") == 1


def test_a_draining_model_is_not_ready_and_takes_nothing(trained, serving):
    model = serving(trained)
    taken = [model.predict(rows(1, i)) for i in range(50)]
    assert model.drain(BOUND_S)
    assert wait(taken, 0).not_done == set()
    assert all(future.exception() is None for future in taken)
    assert model.not_ready() == "the server is going away"
    with pytest.raises(UnavailableError, match="going away"):
        model.predict(rows(1))


class Death(BaseException):
    """What ends a thread."""


def test_a_worker_that_died_makes_it_not_ready(trained, serving, monkeypatch, caplog):
    model = serving(trained)

    def die(*_):
        raise Death

    monkeypatch.setattr(model._usual.batcher, "_run", die)
    with pytest.raises(UnavailableError, match="a worker died of Death"):
        answer(model)
    assert model.not_ready() == "a worker died of Death"
    assert "a thread of the batcher died" in caplog.text


def test_a_follower_that_died_makes_it_not_ready(trained, serving, monkeypatch, caplog):
    model = serving(trained)

    def die():
        raise Death

    monkeypatch.setattr(model._usual.replica, "poll", die)
    until(lambda: model.not_ready() is not None)
    assert model.not_ready() == "following of checkpoints ended with Death"
    assert "following of checkpoints ended" in caplog.text


def test_a_version_that_cannot_be_loaded_is_counted_and_the_one_before_answers(
    trained, serving, metrics, tmp_path
):
    directory = copied(trained, tmp_path)
    newest = sorted((directory / "manifests").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-10])
    model = serving(directory)
    assert answer(model).version == 1
    until(lambda: metrics.value("onstream_replica_failures_total", route="usual") >= 1)


def test_a_version_that_knows_every_example_is_never_too_old(trained, serving, tmp_path):
    with Log(tmp_path / "clicks.db") as examples:
        model = serving(trained, max_staleness_s=0.001, examples=examples)
        until(lambda: model.versions())
        assert model.not_ready() is None
        examples.append([{"user": 1}])
        assert "may be at most" in (model.not_ready() or "")


def test_metrics_tell_version_staleness_and_freshness(trained, serving, metrics):
    model = serving(trained, canary=Share("old", 0.5))
    assert metrics.value("onstream_model_version", model="clicks", route="usual") == 2
    assert metrics.value("onstream_model_version", model="clicks", route="canary") == 1
    for route in ("usual", "canary"):
        assert metrics.value("onstream_staleness_seconds", model="clicks", route=route) > 0
        assert metrics.value("onstream_freshness_seconds_count", model="clicks", route=route) == 1
    for i in range(10):
        answer(model, rows(7, i), version=2)
    assert metrics.value("onstream_batch_rows_sum", route="usual") == 70
    assert metrics.value("onstream_batch_requests_sum", route="usual") == 10
    assert metrics.value("onstream_batch_seconds_count", route="usual") == 10
    assert metrics.value("onstream_queue_wait_seconds_count", route="usual") == 10


# -------------------------------------------------------------------------------------------- settings


def test_a_share_is_read_as_people_write_it():
    assert parse_share("candidate=0.1") == Share("candidate", 0.1)
    assert parse_share("17=1") == Share("17", 1.0)


@pytest.mark.parametrize("text", ["candidate", "candidate=", "candidate=x", "=0.1", "a=0", "a=1.5", "a=nan"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="share"):
        parse_share(text)

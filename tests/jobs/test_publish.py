"""A job that publishes: a tag follows the checkpoints whose metrics keep the gate's bounds."""

import pytest

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Label as LabelFact
from onstream.errors import JobError
from onstream.trainer import Gate
from tests.jobs.small import small_job, write_clicks
from tests.jobs.watch import EVERY_BATCH_S, run

ROWS = 6_400


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", ROWS)


@pytest.fixture
def job(source, tmp_path):
    return small_job(source, tmp_path / "model", report_every_s=EVERY_BATCH_S, publish="production")


def log(job):
    return CheckpointLog(LocalStore(job.directory))


def test_without_a_gate_the_tag_follows_every_checkpoint(job):
    watch = run(job.replace({"keep": 1}))
    newest = log(job).newest().version
    assert newest > 1
    assert log(job).tags() == {"production": newest}
    assert watch.seen[-1].published.version == newest
    assert sum("'production'" in note for note in watch.notes) == 1
    # When the newest was committed, the tag was at the one before, which is kept with the one before that.
    assert log(job).versions() == [newest - 2, newest - 1, newest]


def test_the_tag_points_to_the_last_version_whose_metrics_keep_the_bounds(job):
    gated = job.replace({"gate": "accuracy <= 0.67", "gate_min_examples": 64, "window": 256, "keep": 1000})
    watch = run(gated)
    gate = Gate("accuracy <= 0.67", [LabelFact("click", "binary")], min_examples=64)
    versions = log(job).versions()
    passing = [v for v in versions if gate.refusal(log(job).read(v).facts["metrics"]) is None]
    assert 0 < len(passing) < len(versions)
    assert log(job).tags()["production"] == passing[-1]
    moves = log(job).tag_details()["production"].before
    assert {move.version for move in moves} <= set(passing)
    assert watch.seen[-1].published.version == passing[-1]


def test_one_note_tells_of_each_change_with_metric_value_and_bound(job):
    watch = run(job.replace({"gate": "auc >= 0.9999"}))
    told = [note for note in watch.notes if "'production'" in note]
    assert len(told) == 1
    # The first of them, since the first checkpoint comes before enough examples.
    assert told[0].startswith(
        "tag 'production' does not follow, there is no such tag yet: click/window/auc is "
    )
    assert log(job).tags() == {}
    published = watch.seen[-1].published
    assert (published.version, published.state) == (None, "closed")
    assert published.reason.startswith("click/window/auc is 0.")
    assert published.reason.endswith(", the gate asks auc >= 0.9999")
    assert watch.seen[-1].flat()["published/open"] == 0


def test_a_job_that_is_started_again_judges_the_version_that_it_goes_on_from(job):
    newest = run(job.replace({"gate": "auc >= 0.9999"})).summary.progress.version
    watch = run(job.replace({"gate": "auc >= 0.1"}))
    assert watch.summary.progress.version == newest
    assert log(job).tags() == {"production": newest}


def test_a_gate_is_closed_until_enough_examples_were_evaluated(job):
    watch = run(job.replace({"gate": "auc >= 0", "gate_min_examples": ROWS + 1}))
    assert log(job).tags() == {}
    assert "the gate asks at least 6,401" in watch.seen[-1].published.reason


@pytest.mark.parametrize(
    ("metrics", "refusal"),
    [
        ({"auc": 0.8, "calibration": 1.0}, None),
        ({"auc": 0.6999, "calibration": 1.0}, "click/window/auc is 0.6999, the gate asks auc >= 0.7"),
        (
            {"auc": 0.8, "calibration": 1.2},
            "click/window/calibration is 1.2, the gate asks 0.9 <= calibration <= 1.1",
        ),
        ({"auc": None, "calibration": 1.0}, "click/window/auc is undefined, the gate asks auc >= 0.7"),
        ({"calibration": 1.0}, "click/window/auc is undefined, the gate asks auc >= 0.7"),
        ({"auc": float("nan"), "calibration": 1}, "click/window/auc is undefined, the gate asks auc >= 0.7"),
        ({"auc": "high", "calibration": 1}, "click/window/auc is undefined, the gate asks auc >= 0.7"),
    ],
)
def test_every_metric_must_be_there_and_within(metrics, refusal):
    gate = Gate("auc >= 0.7, 0.9 <= calibration <= 1.1", [LabelFact("click", "binary")], min_examples=10)
    flat = {f"click/window/{name}": value for name, value in metrics.items()}
    assert gate.refusal(flat | {"click/overall/examples": 10}) == refusal
    assert "is of 9 examples" in gate.refusal(flat | {"click/overall/examples": 9})
    assert "is of 0 examples" in gate.refusal({})


def test_with_several_labels_each_that_has_the_metric_must_keep_it_or_the_one_that_is_named():
    labels = [LabelFact("click", "binary"), LabelFact("a/b", "binary"), LabelFact("price", "real")]
    flat = {f"{label.name}/overall/examples": 10 for label in labels}
    flat |= {"click/window/auc": 0.9, "a/b/window/auc": 0.6, "price/window/rmse": 3}
    assert "a/b/window/auc is 0.6" in Gate("auc > 0.7", labels, min_examples=1).refusal(flat)
    assert Gate("click/auc > 0.7, rmse < 4", labels, min_examples=1).refusal(flat) is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gate": "auk >= 0.7"}, "gate: there is no number 'auk'; did you mean 'auc'"),
        ({"gate": "rmse < 1"}, "no number 'rmse'"),
        ({"gate": "auc = 1"}, "gate: 'auc = 1' in 'auc = 1' is no bound"),
        ({"gate": "auc >= 0.7", "publish": None}, "a gate needs a tag"),
        ({"gate": 0.7}, "gate must be text"),
        ({"gate_min_examples": 0}, "gate_min_examples must be a whole number"),
        ({"publish": "12"}, "publish must be the name of a tag"),
        ({"publish": 12}, "publish must be text"),
    ],
)
def test_what_could_never_open_is_refused_where_the_job_is_made(job, options, text):
    with pytest.raises(JobError, match=text):
        job.replace(options)


def test_a_tag_that_cannot_be_written_stops_no_training_and_is_told_once(job):
    job.directory.mkdir()
    (job.directory / "tags").write_text("in the way of the folder")
    watch = run(job)
    assert watch.summary.progress.examples > 0
    assert sum("cannot be moved" in note for note in watch.notes) == 1
    assert watch.seen[-1].published.state == "failed"

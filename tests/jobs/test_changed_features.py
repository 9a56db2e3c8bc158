"""A job that goes on with other features, labels or optimizers than its checkpoint has."""

from dataclasses import replace

import pytest
from torch import nn

from onstream import FTRL, SGD, Adagrad, Adam, Expire, Id, Label, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.core import hash_value, salt
from onstream.errors import CheckpointError
from tests.jobs.small import small_job, write_clicks
from tests.jobs.stored import rows
from tests.jobs.watch import EVERY_BATCH_S, Watch, run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", 2_560)


def job_of(source, directory, *, drop=(), add=(), change=None, **options):
    """The small job with other features."""
    job = small_job(source, directory, report_every_s=EVERY_BATCH_S)
    features = [replace(f, **(change or {}).get(f.name, {})) for f in job.features if f.name not in drop]
    return job.replace({"features": [*features, *add], **options})


def restored(job):
    """Go on with a job, before any further batch; return its rows by key, and who watched it."""
    watch = Watch()
    watch.stop.set()
    trainer = job.trainer(watch)
    assert trainer.run(watch.stop).learned == 0
    held = {}
    for name in trainer.tables:
        held |= rows([trainer.tables[name].rows()], None)
    return held, watch


def kept(directory):
    """The rows by key that the newest version holds."""
    log = CheckpointLog(LocalStore(directory))
    manifest = log.newest()
    found = {}
    for name in manifest.tables:
        if not name.endswith(".candidates"):
            found |= rows(log.rows(manifest, name), None)
    return found


def keys_of(feature, count=200):
    return {hash_value(i, salt(feature)) for i in range(count)}


def only(held, keys):
    return {key: row for key, row in held.items() if key in keys}


def test_a_feature_is_added_and_the_rows_of_the_others_keep_their_values(source, tmp_path):
    run(job_of(source, tmp_path), reports=10)
    before = kept(tmp_path)
    job = job_of(source, tmp_path, add=[Id("hour", dim=4, column="day")])
    assert restored(job)[0] == before
    notes = run(job, reports=5).notes
    assert (
        "these parameters are new or have another shape and begin anew: deep.0.weight" in notes
        and len([note for note in notes if "parameters" in note]) == 1
    )


@pytest.mark.parametrize("gone", ["tags", "user", "price"])
def test_a_feature_is_taken_away_and_the_rows_of_the_others_keep_their_values(source, tmp_path, gone):
    run(job_of(source, tmp_path), reports=10)
    before = kept(tmp_path)
    job = job_of(source, tmp_path, drop=[gone])
    held, _ = restored(job)
    items = keys_of("item")
    assert only(held, items) == only(before, items)
    assert only(held, items)
    notes = run(job, reports=5).notes
    assert "these parameters are new or have another shape and begin anew: deep.0.weight" in notes


def test_a_feature_that_comes_back_finds_its_rows(source, tmp_path):
    run(job_of(source, tmp_path), reports=10)
    before = kept(tmp_path)
    run(job_of(source, tmp_path, drop=["user"]), reports=5)
    held, _ = restored(job_of(source, tmp_path))
    users = {key for day in range(40) for key in keys_of_users(day)}
    assert only(held, users) == only(before, users)


def keys_of_users(day):
    return {hash_value(f"user-{day * 10 + i}", salt("user")) for i in range(60)}


def test_a_feature_that_moves_to_another_table_keeps_its_rows(source, tmp_path):
    run(job_of(source, tmp_path), reports=10)
    before = kept(tmp_path)
    job = job_of(source, tmp_path, change={"item": {"expiry": Expire("300d")}})
    items = keys_of("item")
    assert only(restored(job)[0], items) == only(before, items)
    assert len(only(restored(job)[0], items)) > 100


def test_a_feature_that_moves_away_and_back_leaves_the_rows_of_the_others_as_they_are(source, tmp_path):
    run(job_of(source, tmp_path), reports=10)
    run(job_of(source, tmp_path, change={"item": {"expiry": Expire("300d")}}), reports=5)
    log = CheckpointLog(LocalStore(tmp_path))
    manifest = log.newest()
    [table] = [name for name, chain in manifest.tables.items() if chain.facts["features"] == ["tags"]]
    tags = keys_of("tags")
    before = only(rows(log.rows(manifest, table), None), tags)
    held, _ = restored(job_of(source, tmp_path))
    assert only(held, tags) == before


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({"change": {"item": {"dim": 8}, "tags": {"dim": 8}}}, "dim 8 and optimizer 'adagrad'"),
        ({"optimizer": FTRL()}, "dim 4 and optimizer 'ftrl'"),
        ({"optimizer": SGD(momentum=0.9)}, "dim 4 and optimizer 'sgd'"),
        ({"optimizer": Adam()}, "dim 4 and optimizer 'adam'"),
    ],
)
def test_rows_of_another_width_are_refused_in_one_sentence(source, tmp_path, changes, width):
    run(job_of(source, tmp_path), reports=3)
    with pytest.raises(
        CheckpointError, match=rf"rows of dim 4 and .* of the job of {width} \(.*keep dim and optimizer"
    ):
        run(job_of(source, tmp_path, **changes))


def test_a_setting_of_the_optimizer_may_change(source, tmp_path):
    run(job_of(source, tmp_path), reports=3)
    before = kept(tmp_path)
    assert restored(job_of(source, tmp_path, optimizer=Adagrad(lr=0.5)))[0] == before


# ---------------------------------------------------------------------------------------- labels


class Two(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.names = names
        self.last = nn.ModuleDict({name: nn.LazyLinear(1) for name in names})

    def forward(self, x):
        return {name: self.last[name](x.stack().flatten(1)) for name in self.names}


def labelled(source, directory, *labels):
    job = job_of(source, directory, drop=["click"], add=labels)
    return job.replace({"learner": Torch(lambda: Two([label.name for label in labels]))})


@pytest.mark.parametrize(
    "labels",
    [
        [Label("click", task="real")],
        [Label("click", task="class", classes=3)],
        [Label("click"), Label("dear", column="price", threshold=1.0, required=False)],
        [Label("bought", column="click")],
    ],
    ids=["real", "class", "two", "renamed"],
)
def test_with_other_labels_evaluation_begins_anew_and_says_so(source, tmp_path, labels):
    first = run(labelled(source, tmp_path, Label("click")), reports=10)
    assert first.report.labels["click"].examples > 500
    job = labelled(source, tmp_path, *labels)
    if labels[0].task == "class":
        job = job.replace({"learner": Torch(Classes)})
    again = run(job, reports=1)
    assert "the labels are others than in the checkpoint, so evaluation begins anew" in again.notes
    assert again.seen[0].examples > 600
    assert again.seen[0].report.examples <= 64


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.LazyLinear(3)

    def forward(self, x):
        return self.last(x.stack().flatten(1))


def test_with_the_same_labels_evaluation_goes_on(source, tmp_path):
    run(job_of(source, tmp_path), reports=10)
    again = run(job_of(source, tmp_path, drop=["tags"]), reports=1)
    assert again.seen[0].report.examples == again.seen[0].examples > 600
    assert not any("evaluation" in note for note in again.notes)

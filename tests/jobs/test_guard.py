"""A guarded job: learning stands still when the stream is suddenly another, until it is told to go on."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream import Files, Id, Job, Label, Number, SeenTimes, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import Batch, State
from onstream.contracts import Label as LabelFact
from onstream.errors import JobError
from onstream.trainer import Guard, read_pause, resume
from tests.jobs.networks import Sum
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, Watch

CLICK = (LabelFact("click", "binary"),)
BATCH = 64
QUIET = 2_560
"""Rows before the stream changes."""


def stream(path, *, jump=None, rows=2 * QUIET):
    """Write rows of ten users, of which every second clicks; from `QUIET` on clicks stop, or every user is new."""
    number = np.arange(rows)
    after = number >= QUIET
    click = np.where(after & (jump == "clicks"), 0, number % 2)
    user = np.where(after & (jump == "users"), 1_000 + number, number % 10)
    pq.write_table(pa.table({"user": user, "click": click}), path)
    return path


def guarded(path, directory, guard="0.5 <= label_rate <= 2, unseen <= 0.3", **options):
    settings = {"batch_size": BATCH, "guard_rows": 256, "report_every_s": EVERY_BATCH_S} | options
    features = [Id("user", dim=1), Label("click")]
    return Job(Files(path), features, Torch(Sum), directory, guard=guard, **settings)


class Person(Watch):
    """Watches, and resumes the job or stops it once it is paused."""

    def __init__(self, directory, *, resumes=0):
        super().__init__()
        self.directory = directory
        self.pauses = []
        self._resumes = resumes

    def progress(self, progress):
        super().progress(progress)
        pause = read_pause(self.directory)
        if progress.paused is None or pause is None or pause.resumed:
            return
        self.pauses.append(pause)
        if len(self.pauses) <= self._resumes:
            resume(self.directory)
        else:
            self.stop.set()


def run(job, *, resumes=0):
    person = Person(job.directory, resumes=resumes)
    person.summary = job.train(person, stop=person.stop)
    return person


@pytest.mark.parametrize("jump", ["clicks", "users"])
def test_a_jump_pauses_before_the_batch_which_is_not_learned_and_all_before_is_kept(tmp_path, jump):
    job = guarded(stream(tmp_path / "a.parquet", jump=jump), tmp_path / "model")
    person = run(job)
    pause = read_pause(job.directory)
    assert person.summary.stopped
    assert QUIET < pause.examples <= QUIET + 256
    manifest = CheckpointLog(LocalStore(job.directory)).newest(verify=True)
    assert manifest.facts["examples"] == pause.examples
    assert manifest.positions == {"a.parquet": pause.examples}
    said = {"clicks": "label_rate of 'click' is 0.", "users": "unseen is 0."}[jump]
    assert pause.reason.startswith(said)
    assert person.seen[-1].paused == pause.reason
    assert person.seen[-1].flat()["paused"] == 1
    [note] = [note for note in person.notes if note.startswith("paused after")]
    assert pause.reason in note
    assert f"onstream resume {job.directory}" in note


def test_without_a_jump_nothing_pauses_and_the_same_is_learned_as_without_a_guard(tmp_path):
    source = stream(tmp_path / "a.parquet")
    person = run(guarded(source, tmp_path / "guarded"))
    assert not person.pauses
    assert person.seen[-1].guard == {"click/label_rate": 1.0, "unseen": 0.0}
    assert person.seen[-1].flat()["paused"] == 0
    run(guarded(source, tmp_path / "free", guard=None))
    assert set(differences(model(tmp_path / "free"), model(tmp_path / "guarded"))) <= {"state/guard"}


@pytest.mark.parametrize("jump", ["clicks", "users"])
def test_resumed_it_learns_every_row_once_and_does_not_pause_again_on_the_same_rows(tmp_path, jump):
    source = stream(tmp_path / "a.parquet", jump=jump, rows=QUIET + 640)
    person = run(guarded(source, tmp_path / "model"), resumes=1)
    assert len(person.pauses) == 1
    assert person.summary.progress.examples == QUIET + 640
    assert person.seen[-1].paused is None
    assert read_pause(tmp_path / "model") is None
    assert any(note.startswith("going on, as told") for note in person.notes)
    run(guarded(source, tmp_path / "free", guard=None))
    free = model(tmp_path / "free")
    assert set(differences(free, model(tmp_path / "model"))) <= {"state/guard"}


def test_what_is_usual_is_remembered_where_it_was_stopped(tmp_path):
    source = stream(tmp_path / "a.parquet", jump="clicks")
    whole = run(guarded(source, tmp_path / "whole"))
    job = guarded(source, tmp_path / "model")
    watch = Watch(until=lambda progress: progress.examples >= QUIET - BATCH)
    job.train(watch, stop=watch.stop)
    assert watch.seen[-1].examples < QUIET
    assert run(job).pauses[0].examples == whole.pauses[0].examples


def test_stopped_while_paused_it_is_paused_when_it_starts_again(tmp_path):
    job = guarded(stream(tmp_path / "a.parquet", jump="clicks"), tmp_path / "model")
    first = run(job)
    again = run(job)
    assert again.pauses[0] == first.pauses[-1]
    assert again.summary.learned == 0
    assert any(note.startswith("still paused: label_rate of 'click'") for note in again.notes)
    assert again.summary.progress.version == first.summary.progress.version


def test_resumed_while_it_does_not_run_it_goes_on_when_it_starts(tmp_path):
    job = guarded(stream(tmp_path / "a.parquet", jump="clicks", rows=QUIET + 640), tmp_path / "model")
    run(job)
    resume(job.directory)
    assert read_pause(job.directory).resumed
    person = run(job)
    assert not person.pauses
    assert person.summary.progress.examples == QUIET + 640
    assert read_pause(job.directory) is None


def test_killed_after_the_pause_was_written_and_before_its_checkpoint_it_is_paused_all_the_same(tmp_path):
    job = guarded(stream(tmp_path / "a.parquet", jump="clicks"), tmp_path / "model", checkpoint_every_s=1e9)
    run(job)
    log = CheckpointLog(LocalStore(job.directory))
    [version] = log.versions()
    LocalStore(job.directory).remove(f"manifests/{version:020d}.json")
    again = run(job)
    assert again.summary.learned == 0
    resume(job.directory)
    assert run(job).summary.learned > 0


def test_a_job_that_lost_its_guard_is_not_paused(tmp_path):
    source = stream(tmp_path / "a.parquet", jump="clicks")
    run(guarded(source, tmp_path / "model"))
    person = run(guarded(source, tmp_path / "model", guard=None))
    assert person.summary.progress.examples == 2 * QUIET
    assert read_pause(tmp_path / "model") is None
    assert any(note.startswith("not paused any more") for note in person.notes)


def test_a_pause_that_cannot_be_read_is_a_pause_and_one_that_is_not_there_cannot_be_resumed(tmp_path):
    with pytest.raises(JobError, match="is not paused"):
        resume(tmp_path)
    for content in (b"", b"{", b"[]", b"[" * 100_000, b'{"reason": 1}', b"\xff"):
        (tmp_path / "paused.json").write_bytes(content)
        assert "paused.json cannot be read" in read_pause(tmp_path).reason
    resume(tmp_path)
    assert json.loads((tmp_path / "paused.json").read_bytes())["resumed"]


def test_ids_that_wait_for_admission_count_as_unseen(tmp_path):
    source = stream(tmp_path / "a.parquet", jump="users")
    features = [Id("user", dim=1, admission=SeenTimes(2)), Label("click")]
    job = guarded(source, tmp_path / "model").replace({"features": features})
    assert run(job).pauses[0].reason.startswith("unseen is 0.")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"guard": "label_rat <= 2"}, "guard: there is no number 'label_rat'; did you mean 'label_rate'"),
        ({"guard": "auc >= 0.5"}, "there are: label_rate, click/label_rate, unseen"),
        ({"guard": "label_rate"}, "guard: 'label_rate' in 'label_rate' is no bound"),
        ({"guard": True}, "guard must be text"),
        ({"guard_rows": 0}, "guard_rows must be a whole number"),
    ],
)
def test_what_cannot_be_guarded_is_refused_where_the_job_is_made(tmp_path, options, text):
    job = guarded(tmp_path / "a.parquet", tmp_path / "model")
    with pytest.raises(JobError, match=text):
        job.replace(options)


def test_without_binary_labels_or_ids_there_is_nothing_to_guard(tmp_path):
    with pytest.raises(JobError, match=r"no number 'label_rate'; there are: $"):
        Job(
            Files(tmp_path / "a.csv"),
            [Number("price"), Label("cost", task="real")],
            Torch(Sum),
            tmp_path / "model",
            guard="label_rate < 2",
        )


# ------------------------------------------------------------------------------------- what is measured


def batch(labels, keys=()):
    return Batch(
        num_rows=len(labels),
        keys={"t": np.array(keys, np.uint64)},
        offsets={},
        numbers=np.zeros((len(labels), 0), np.float32),
        tensors={},
        labels={"click": np.array(labels, np.float32)},
        weights=None,
        groups={},
        now=0,
        positions={},
        rejects=(),
        state=State(),
    )


def test_the_label_rate_is_the_mean_of_recent_rows_by_the_mean_before():
    guard = Guard("label_rate <= 2", CLICK, 100, ids=True)
    for _ in range(2):
        guard.update(batch([1] * 10 + [0] * 90), 0)
    # Half of the window would be these.
    assert guard.refusal(batch([1] * 20 + [0] * 80)) is None
    assert guard.refusal(batch([1] * 21 + [0] * 79)) == (
        "label_rate of 'click' is 2.1, the guard asks label_rate <= 2.0: its mean is 0.21 over the last 100 rows, "
        "0.1 before"
    )


def test_a_rate_that_was_zero_and_is_no_more_has_jumped():
    guard = Guard("label_rate <= 1000", CLICK, 10, ids=True)
    for _ in range(2):
        guard.update(batch([0] * 10), 0)
    assert guard.refusal(batch([0] * 10)) is None
    assert "label_rate of 'click' is inf" in guard.refusal(batch([0] * 9 + [1]))


def test_the_long_run_forgets_half_every_hundred_windows():
    guard = Guard("label_rate <= 2", CLICK, 10, ids=True)
    for label, batches in ((1, 101), (0, 100)):
        for _ in range(batches):
            guard.update(batch([label] * 10), 0)
    long_run = guard.state().arrays["label/click"][0]
    # A hundred windows of clicks, then a hundred more, of which the first ended the clicks.
    assert long_run[1] / long_run[0] == pytest.approx(1 / 3, abs=0.01)


def test_rows_without_the_label_do_not_count():
    guard = Guard("0.9 <= label_rate <= 1.1", CLICK, 10, ids=True)
    absent = float("nan")
    for _ in range(20):
        guard.update(batch([1, 0, absent, absent]), 0)
    assert guard.values()["click/label_rate"] == 1
    assert guard.refusal(batch([absent] * 100)) is None
    assert guard.refusal(batch([0] * 10)) is not None


def test_unseen_is_the_growth_of_tables_by_the_ids_read_and_key_0_is_none():
    guard = Guard("unseen <= 0.3", CLICK, 4, ids=True)
    for _ in range(2):
        guard.update(batch([0] * 4, [1, 2, 3, 4, 0, 0]), 1)
    assert guard.refusal(batch([0])) is None
    assert guard.values()["unseen"] == 0.25
    guard.update(batch([0] * 4, [1, 2, 3, 4, 0, 0]), 2)
    assert guard.refusal(batch([0])) == (
        "unseen is 0.5, the guard asks unseen <= 0.3: 2 rows are new of 4 ids in the last 4 rows"
    )


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, float("nan")]), max_size=40), max_size=40),
    st.integers(1, 60),
    st.integers(0, 40),
)
def test_the_window_is_the_newest_rows_and_a_state_goes_on(batches, size, cut):
    guard = Guard("label_rate <= 2, unseen <= 1", CLICK, size, ids=True)
    for labels in batches[:cut]:
        guard.update(batch(labels, range(1, len(labels) + 1)), len(labels) // 2)
    restored = Guard("label_rate <= 2, unseen <= 1", CLICK, size, ids=True)
    restored.load(guard.state())
    for labels in batches[cut:]:
        assert restored.refusal(batch(labels)) == guard.refusal(batch(labels))
        for each in (guard, restored):
            each.update(batch(labels, range(1, len(labels) + 1)), len(labels) // 2)
    assert restored.values() == guard.values()
    for key, array in guard.state().arrays.items():
        assert array.tobytes() == restored.state().arrays[key].tobytes()
        rows = array[1:, 0]
        total = sum(len(b) if key == "unseen" else np.count_nonzero(~np.isnan(b)) for b in batches)
        # All rows are remembered, less those that left the window, and no more than the window and a batch.
        assert rows.sum() >= min(size, total)
        assert rows.sum() - (rows[0] if len(rows) else 0) < size
        assert rows.sum() + array[0, 0] <= total + 1e-6


def test_another_window_begins_anew():
    guard = Guard("label_rate <= 2", CLICK, 10, ids=False)
    guard.update(batch([1] * 100), 0)
    other = Guard("label_rate <= 2", CLICK, 20, ids=False)
    other.load(guard.state())
    assert len(other.state().arrays["unseen"]) == 1

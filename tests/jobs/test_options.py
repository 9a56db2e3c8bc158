"""Every setting of a job changes something that can be seen."""

import threading
import urllib.request
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from onstream import FTRL, Adagrad, Constant, Expire, Files, Job, Label, SeenTimes, Torch
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import BadInputError, JobError
from onstream.trainer import Settings
from tests.jobs.networks import Sum
from tests.jobs.small import Net, small_job, write_clicks
from tests.jobs.watch import EVERY_BATCH_S, Watch, run

ROWS = 1_280
TESTED = {
    *("batch_size", "read_ahead", "checkpoint_every_s", "keep", "max_bad_share", "window", "report_every_s"),
    *("seed", "threads", "stream", "features", "learner", "directory", "tensorboard", "prometheus"),
    *("optimizer", "initial", "admission", "expiry"),
    # By test_publish and test_guard.
    *("publish", "gate", "gate_min_examples", "guard", "guard_rows"),
    # By test_signals, which has a stream that can be silent.
    "max_wait_s",
    # By test_warm_start.
    "warm_start",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", ROWS)


@pytest.fixture
def job(source, tmp_path):
    return small_job(source, tmp_path / "model", checkpoint_every_s=1e9, report_every_s=EVERY_BATCH_S)


def manifest(job):
    return CheckpointLog(LocalStore(job.directory)).newest()


def facts(job, feature="item"):
    """The facts of the table that holds a feature."""
    tables = manifest(job).tables
    return next(chain.facts for chain in tables.values() if feature in chain.facts["features"])


def test_each_setting_has_a_test():
    assert {field.name for field in fields(Job)} == TESTED


def test_batch_size_is_the_rows_of_a_batch(job):
    run(job.replace({"batch_size": 128}))
    assert manifest(job).facts["batches"] == ROWS // 128


def test_checkpoints_are_checkpoint_every_s_apart(job, tmp_path):
    assert run(job).summary.progress.version == 1
    often = job.replace({"checkpoint_every_s": 1e-6, "directory": tmp_path / "often"})
    assert run(often).summary.progress.version > 1


def test_keep_is_how_many_checkpoints_stay(job):
    run(job.replace({"checkpoint_every_s": 1e-6, "keep": 2}))
    assert len(CheckpointLog(LocalStore(job.directory)).versions()) == 2


def test_max_bad_share_is_how_many_rows_may_be_bad(job):
    with pytest.raises(BadInputError):
        run(job.replace({"max_bad_share": 0.0}))
    assert run(job.replace({"max_bad_share": 1.0})).summary.progress.rejected > 0


def test_window_is_how_many_examples_windowed_metrics_look_at(job, tmp_path):
    wide = run(job).report.labels["click"]
    narrow = run(job.replace({"window": 64, "directory": tmp_path / "narrow"})).report.labels["click"]
    assert narrow.overall == wide.overall
    assert (narrow.window["accuracy"] * 64).is_integer()
    assert narrow.window["log_loss"] != wide.window["log_loss"]


def test_reports_are_report_every_s_apart(job, tmp_path):
    assert len(run(job).seen) == ROWS // 64 + 1
    assert len(run(job.replace({"report_every_s": 1e9, "directory": tmp_path / "seldom"})).seen) == 1


def test_seed_decides_rows_and_parameters(job, source, tmp_path):
    def first(seed):
        trainer = job.replace({"seed": seed, "directory": tmp_path / f"{seed}"}).trainer()
        batch = next(Files(source).read({}, max_rows=4, stop=threading.Event())).batch
        return trainer.predict(batch)["click"].tolist()

    assert first(0) == first(0)
    assert first(0) != first(1)


def test_threads_are_those_of_the_tables(job):
    def threads_begun(threads):
        before = {task.name for task in Path("/proc/self/task").iterdir()}
        tables = job.replace({"threads": threads}).trainer().tables
        tables["d4-adagrad"].pull(np.arange(1, 100_000, dtype=np.uint64))
        # Those of earlier tests may end meanwhile.
        return len({task.name for task in Path("/proc/self/task").iterdir()} - before)

    assert threads_begun(1) == 0
    # A table has 16 partitions, so more threads than that have nothing to do.
    assert 10 <= threads_begun(40) <= 15


class FakeCounted(Files):
    """Files that tell how many rows were taken from them, in chunks of one batch."""

    def read(self, positions, *, max_rows, stop):
        for chunk in super().read(positions, max_rows=64, stop=stop):
            self.taken.append(chunk.batch.num_rows)
            if len(self.taken) == self.enough:
                self.reached.set()
            yield chunk


def counted(source, enough):
    stream = FakeCounted(source)
    for name, value in {"taken": [], "enough": enough, "reached": threading.Event()}.items():
        object.__setattr__(stream, name, value)
    return stream


def test_read_ahead_is_how_many_batches_are_read_before_their_turn(job, source, tmp_path):
    far = counted(source, enough=18)
    # At the first report, reading goes on alone until it has come as far as it may.
    arrived = run(
        Job(
            far, job.features, Torch(Net), tmp_path / "far", batch_size=64, read_ahead=16, report_every_s=1e-6
        ),
        until=lambda progress: far.reached.wait(60) or True,
    )
    assert far.reached.is_set()
    assert arrived.summary.learned < 64 * 3

    near = counted(source, enough=18)
    ahead = []
    run(
        Job(
            near,
            job.features,
            Torch(Net),
            tmp_path / "near",
            batch_size=64,
            read_ahead=1,
            report_every_s=1e-6,
        ),
        until=lambda progress: ahead.append(len(near.taken) - (progress.examples + progress.rejected) // 64),
    )
    # Besides the one that is ready: one in the making, one being cut, two chunks ready and one being read.
    assert max(ahead) <= 6


# ------------------------------------------------------------------------------------- what rules rows


def test_optimizer_rules_the_rows_of_features_that_name_none(job):
    run(job.replace({"optimizer": FTRL(lr=0.3)}), reports=2)
    assert facts(job)["policy"]["optimizer"] == FTRL(lr=0.3).describe()
    assert facts(job)["state_width"] == 8


def test_initial_is_how_rows_begin(job, source):
    trainer = job.replace({"initial": Constant(0.25), "learner": Torch(Sum)}).trainer()
    batch = next(Files(source).read({}, max_rows=1, stop=threading.Event())).batch
    tags = 1 if batch.column("tags")[0].as_py() else 0
    logit = 0.25 * 4 * (2 + tags)
    assert trainer.predict(batch)["click"][0] == pytest.approx(torch.sigmoid(torch.tensor(logit)).item())


def test_admission_is_when_an_id_gets_a_row(job, tmp_path):
    rows = {}
    for times in (1, 8):
        summary = run(
            job.replace({"admission": SeenTimes(times), "directory": tmp_path / f"{times}"})
        ).summary
        rows[times] = sum(summary.progress.table_rows.values())
    assert rows[8] < rows[1] - 50


def test_expiry_is_when_a_row_is_dropped(job, tmp_path):
    rows = {}
    for days in (1, 40):
        trainer = job.replace({"expiry": Expire(f"{days}d"), "directory": tmp_path / f"{days}"}).trainer()
        trainer.run()
        name = next(spec.name for spec in trainer.features.layout.tables if "item" in spec.features)
        trainer.tables[name].evict(40 * 86_400)
        rows[days] = trainer.tables.num_rows()[name]
    assert rows[1] < rows[40] - 50


# --------------------------------------------------------------------------------------------- reporting


def curve(directory, name="click/overall/log_loss"):
    events = EventAccumulator(str(directory)).Reload()
    return [event.step for event in events.Scalars(name)]


def test_tensorboard_shows_a_curve_that_does_not_fork_when_the_job_goes_on(job, tmp_path):
    # No checkpoint is made along the way, so a crash takes the job back to its first stop.
    job = job.replace({"tensorboard": tmp_path / "events"})
    run(job, reports=5)

    class CrashError(Exception):
        pass

    def crash(progress):
        if progress.examples > 500:
            raise CrashError

    with pytest.raises(CrashError):
        run(job, until=crash)
    whole = run(job)
    steps = curve(tmp_path / "events")
    assert steps == sorted(steps)
    assert len(set(steps)) == ROWS // 64
    assert steps[-1] == whole.summary.progress.examples
    assert len(list((tmp_path / "events").iterdir())) == 3


def test_prometheus_serves_the_newest_numbers_while_the_job_runs(job):
    pages = []

    def address():
        return next(note for note in watch.notes if "metrics are served at" in note).split()[-1]

    def scrape(progress):
        with urllib.request.urlopen(address()) as answer:
            pages.append((progress.examples, answer.read().decode()))

    watch = Watch(until=scrape)
    job.replace({"prometheus": 0}).train(watch, stop=watch.stop)
    examples, page = pages[10]
    assert f"onstream_examples_total {float(examples)}\n" in page
    assert 'onstream_log_loss_nats{label="click",scope="window"}' in page
    assert "onstream_table_rows{table=" in page
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address())


# ------------------------------------------------------------------------------------------ wrong values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("batch_size", "read_ahead", "keep", "window")
            for value in (0, 1.5, True)
        ),
        *(("max_wait_s", v) for v in (0, -1, "1", float("nan"), True)),
        *(("checkpoint_every_s", v) for v in (0, "soon")),
        *(("report_every_s", v) for v in (0, None)),
        *(("max_bad_share", v) for v in (-0.1, 1.1, "much", True)),
        *(("seed", v) for v in (-1, 1 << 64, 0.5)),
        *(("threads", v) for v in (0, "many", 2.0)),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(name, value):
    with pytest.raises(JobError, match=f"{name} must be"):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"stream": "clicks.csv"}, "stream must be a Stream, got str"),
        ({"learner": Net}, "learner must be a Learner, got type"),
        ({"directory": None}, "directory must be a path, got None"),
        ({"tensorboard": 5}, "tensorboard must be a path, got 5"),
        ({"prometheus": "9090x"}, "prometheus must be the number of a port"),
        ({"optimizer": "adam"}, r"optimizer must be such as Adagrad\(lr=0.05\), got 'adam'"),
        ({"initial": Adagrad()}, "initial must be such as Uniform"),
        ({"admission": 3}, r"admission must be such as SeenTimes\(3\), got 3"),
        ({"expiry": "3d"}, "expiry must be such as Expire"),
        ({"features": Label("click")}, "features must be a list of declarations"),
        ({"features": [Label("click")]}, "there is no feature to learn from"),
        ({"batch_size": "big"}, "batch_size='big': batch_size must be a whole number"),
    ],
)
def test_a_wrong_part_of_a_job_is_refused_where_the_job_is_made(job, changes, text):
    with pytest.raises(JobError, match=text):
        job.replace(changes)


def test_an_expiry_needs_an_event_time(source, tmp_path):
    job = small_job(source, tmp_path / "model")
    with pytest.raises(JobError, match="an expiry counts event time; declare its column"):
        job.replace({"features": [f for f in job.features if f.name != "day"]})

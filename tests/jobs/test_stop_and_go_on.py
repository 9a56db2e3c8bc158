"""A job that is stopped goes on from its newest checkpoint, to the bit."""

from itertools import islice

import pytest

from onstream import FTRL, Adam, Files
from onstream.checkpoints import CheckpointLog, LocalStore
from tests.jobs.small import small_job, write_clicks
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, Watch, run

ROWS = 1_600
BATCHES = ROWS // 64

OPTIONS = {
    "adagrad": {},
    "ftrl": {"optimizer": FTRL(lr=0.1, l1=0.01)},
    "adam": {"optimizer": Adam(lr=0.01)},
    "without expiry": {"expires": False},
    "checkpoints far apart": {"checkpoint_every_s": 1e9},
    "servable": {"servable": True},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", ROWS)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_job_stopped_three_times_ends_with_the_same_bits(source, tmp_path, options):
    run(small_job(source, tmp_path / "whole", **options))
    for batches in (1, 5, 11):
        job = small_job(source, tmp_path / "stopped", report_every_s=EVERY_BATCH_S, **options)
        summary = run(job, reports=batches).summary
        assert summary.stopped
        assert 0 < summary.learned <= batches * 64
    end = run(small_job(source, tmp_path / "stopped", **options))
    assert not end.summary.stopped
    assert end.summary.progress.examples == ROWS - end.summary.progress.rejected
    assert differences(model(tmp_path / "whole"), model(tmp_path / "stopped")) == []


def test_exporting_the_network_changes_no_bit_of_what_is_learned(source, tmp_path):
    run(small_job(source, tmp_path / "plain"))
    run(small_job(source, tmp_path / "servable", servable=True))
    assert differences(model(tmp_path / "plain"), model(tmp_path / "servable")) == ["state/network"]


class FakeShortRead(Files):
    """Files of which half a batch is read before the job is stopped."""

    def read(self, positions, *, max_rows, stop):
        yield from islice(super().read(positions, max_rows=32, stop=stop), 1)
        stop.set()


def test_a_stop_that_finds_half_a_batch_read_leaves_it_to_the_next_run(source, tmp_path):
    run(small_job(source, tmp_path / "whole"))
    run(small_job(source, tmp_path / "stopped", report_every_s=EVERY_BATCH_S), reports=5)
    job = small_job(source, tmp_path / "stopped").replace({"stream": FakeShortRead(source)})
    summary = job.train()
    assert (summary.learned, summary.stopped) == (0, True)
    run(small_job(source, tmp_path / "stopped"))
    assert differences(model(tmp_path / "whole"), model(tmp_path / "stopped")) == []


def test_a_job_at_the_end_of_its_stream_learns_nothing_and_makes_no_version(source, tmp_path):
    first = run(small_job(source, tmp_path / "model")).summary
    again = run(small_job(source, tmp_path / "model"))
    assert (again.summary.learned, again.summary.resumed_from) == (0, first.progress.version)
    assert again.summary.progress.version == first.progress.version
    assert again.notes == [
        f"going on from checkpoint {first.progress.version}, after {first.progress.examples:,} examples"
    ]


def test_every_checkpoint_carries_metrics_of_the_whole_stream(source, tmp_path):
    first = run(small_job(source, tmp_path, report_every_s=EVERY_BATCH_S), reports=5).summary.progress
    run(small_job(source, tmp_path, report_every_s=1e9, keep=50))
    log = CheckpointLog(LocalStore(tmp_path))
    measured = [log.read(version).facts["metrics"]["examples"] for version in log.versions()]
    # No report is due in the second run, so its first version has what the checkpoint had.
    assert log.read(first.version + 1).facts["metrics"]["examples"] == first.examples
    assert measured == sorted(measured)


def test_a_damaged_newest_checkpoint_is_named_and_the_stream_replayed_from_the_one_before(source, tmp_path):
    run(small_job(source, tmp_path / "whole"))
    job = small_job(source, tmp_path / "damaged", report_every_s=EVERY_BATCH_S)
    newest = run(job, reports=15).summary.progress.version
    [file] = (tmp_path / "damaged" / "states").glob(f"{newest:020d}-learner-*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)

    end = run(small_job(source, tmp_path / "damaged"))
    [note] = [note for note in end.notes if "damaged" in note]
    assert note.startswith(f"version {newest} is damaged and passed over: ")
    assert file.name in note
    assert end.summary.resumed_from == newest - 1
    assert differences(model(tmp_path / "whole"), model(tmp_path / "damaged")) == []


def test_a_job_does_not_begin_anew_when_every_checkpoint_is_damaged(source, tmp_path):
    job = small_job(source, tmp_path / "model", report_every_s=EVERY_BATCH_S)
    run(job, reports=3)
    for file in (tmp_path / "model" / "manifests").iterdir():
        file.write_bytes(file.read_bytes()[:-10])
    before = sorted((tmp_path / "model").rglob("*"))
    with pytest.raises(OSError, match=r"none of the versions .* is whole"):
        job.train(Watch())
    assert sorted((tmp_path / "model").rglob("*")) == before

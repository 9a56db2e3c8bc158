"""Repeated passes: each row is learned so often, counted once, and a job that stops anywhere goes on in place."""

import shutil
import threading

import pytest

from onstream import Cache, Files, Id, Job, Label, Log, Torch
from onstream.errors import JobError
from tests.jobs.joined_job import joined_job, write_logs
from tests.jobs.networks import Sum
from tests.jobs.small import small_job, write_clicks
from tests.jobs.stored import differences, model
from tests.jobs.test_join_and_go_on import what_counts
from tests.jobs.watch import EVERY_BATCH_S, run

ROWS = 1_600


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_clicks(tmp_path_factory.mktemp("source") / "clicks.parquet", ROWS)


def numbers(folder, count=10):
    path = folder / "n.csv"
    path.write_text("n\n" + "".join(f"{n}\n" for n in range(count)))
    return path


def given(stream, positions=None, limit=10_000, max_rows=4):
    """What a stream gives, row by row, and where it stands then."""
    positions, rows = dict(positions or {}), []
    for chunk in stream.read(positions, max_rows=max_rows, stop=threading.Event()):
        for n, end in zip(chunk.batch["n"].to_pylist(), ends(chunk), strict=True):
            rows.append((n, chunk.again))
            positions[chunk.partition] = end
            if len(rows) == limit:
                return rows, positions
        positions[chunk.partition] = chunk.next
    return rows, positions


def ends(chunk):
    count = chunk.batch.num_rows
    return list(range(chunk.next - count + 1, chunk.next + 1)) if chunk.ends is None else chunk.ends.tolist()


def expected(count, window, passes):
    rows = []
    for first in range(0, count, window):
        part = range(first, min(first + window, count))
        rows += [(n, again > 0) for again in range(passes) for n in part]
    return rows


@pytest.mark.parametrize(("window", "passes"), [(1, 2), (3, 3), (5, 2), (10, 4), (1000, 3)])
def test_rows_are_given_window_by_window(tmp_path, window, passes):
    stream = Cache(Files(numbers(tmp_path)), passes, window, tmp_path / "cache")
    assert given(stream)[0] == expected(10, window, passes)


@pytest.mark.parametrize("stop", range(1, 30))
@pytest.mark.parametrize("window", [4, 5, 10])
def test_reading_goes_on_in_place_from_any_row_whatever_was_read_ahead(tmp_path, window, stop):
    def stream():
        return Cache(Files(numbers(tmp_path)), 3, window, tmp_path / "cache")

    first, positions = given(stream(), limit=stop)
    given(stream(), limit=min(stop + 7, 30))  # as a process that died with what it had read ahead
    rest, _ = given(stream(), positions)
    assert first + rest == expected(10, window, 3)


def test_files_of_a_window_go_once_a_checkpoint_holds_all_its_passes(tmp_path):
    stream = Cache(Files(numbers(tmp_path)), 2, 5, tmp_path / "cache")
    given(stream)
    assert len(list((tmp_path / "cache").iterdir())) == 3
    stream.kept({"cache": 4})
    assert len(list((tmp_path / "cache").iterdir())) == 3
    stream.kept({"cache": 5})
    assert sorted(path.name[-2:] for path in (tmp_path / "cache").iterdir()) == ["05", "10"]


def test_lost_files_cost_the_repeats_of_their_window_and_are_told_of(tmp_path):
    stream = Cache(Files(numbers(tmp_path)), 3, 5, tmp_path / "cache")
    _, positions = given(stream, limit=8)
    shutil.rmtree(tmp_path / "cache")
    rest, _ = given(stream, positions)
    assert rest == [row for row in expected(10, 5, 3) if row[0] >= 5]
    assert stream.notes == [
        "the cache begins anew: the files of its window are gone, and repeats of it are left out"
    ]


def test_damaged_files_cost_the_repeats_of_their_window_and_are_told_of(tmp_path):
    stream = Cache(Files(numbers(tmp_path)), 3, 5, tmp_path / "cache")
    _, positions = given(stream, limit=8)
    for file in (tmp_path / "cache").glob("*/*.arrow"):
        file.write_bytes(file.read_bytes()[:50])
    rest, _ = given(stream, positions)
    assert rest == [row for row in expected(10, 5, 3) if row[0] >= 5]
    assert "cannot be used" in stream.notes[0]


@pytest.mark.parametrize("wrong", [{"passes": 1}, {"window_rows": 0}, {"stream": "clicks.csv"}])
def test_what_cannot_be_is_told(tmp_path, wrong):
    with pytest.raises(JobError, match=next(iter(wrong))):
        Cache(**{"stream": Files(numbers(tmp_path)), **wrong})


def test_a_job_stopped_three_times_ends_with_the_same_bits(source, tmp_path):
    def job(name):
        made = small_job(source, tmp_path / name, report_every_s=EVERY_BATCH_S)
        return made.replace({"stream": Cache(made.stream, passes=3, window_rows=500)})

    whole = run(job("whole")).summary
    for batches in (3, 9, 13, 30):
        assert run(job("stopped"), reports=batches).summary.stopped
    end = run(job("stopped")).summary
    assert differences(model(tmp_path / "whole"), model(tmp_path / "stopped")) == []
    # Each row counts once, however often it is learned.
    once = run(small_job(source, tmp_path / "once")).summary.progress
    for summary in (whole, end):
        assert summary.progress.examples == once.examples
        assert summary.progress.rejected == once.rejected


def test_a_job_over_a_cached_join_stopped_again_and_again_ends_with_the_same_bits(tmp_path):
    write_logs(tmp_path, 1_000)

    def job(name):
        made = joined_job(tmp_path, tmp_path / name)
        return made.replace({"stream": Cache(made.stream, passes=3, window_rows=300)})

    run(job("whole"))
    # The second and third stop is among rows that are given again, which carry nothing that the join remembers.
    for batches in (7, 2, 2, 8):
        assert run(job("stopped"), reports=batches).summary.stopped
    run(job("stopped"))
    assert differences(what_counts(tmp_path / "whole"), what_counts(tmp_path / "stopped")) == []


def test_later_passes_are_learned_and_no_metric_counts_them(source, tmp_path):
    once = run(small_job(source, tmp_path / "once")).summary.progress
    job = small_job(source, tmp_path / "twice")
    twice = run(job.replace({"stream": Cache(job.stream, passes=2, window_rows=ROWS)})).summary.progress
    # The first pass over the only window is what a single pass is.
    assert twice.report.flat() == once.report.flat()
    assert differences(model(tmp_path / "once"), model(tmp_path / "twice")) != []


def test_check_leaves_the_files_of_a_job_as_they_are(tmp_path):
    with Log(tmp_path / "log.db", follow=False) as log:
        log.append([{"user": n % 3, "click": n % 2} for n in range(20)])
        job = Job(
            Cache(log, window_rows=8), [Id("user", dim=1), Label("click")], Torch(Sum), tmp_path / "model"
        )
        job.train()
        before = sorted((tmp_path / "model/stream").rglob("*"))
        assert before
        assert len(job.check().rows) == 3
        assert sorted((tmp_path / "model/stream").rglob("*")) == before

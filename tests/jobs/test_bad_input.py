"""Rows and files that cannot be used."""

import json
import random

import pytest

from onstream import Files, Id, Job, Label, Number, Torch
from onstream.errors import BadInputError, DivergedError
from tests.jobs.networks import Squares, Sum
from tests.jobs.small import small_job, write_clicks
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, run

REASONS = {
    "label": "label 'click': expected 0 or 1",
    "type": "column 'price': not a number",
    "line": "not valid JSON",
    "length": "column 'user': longer than",
}


def write_lines(path, rows, bad):
    """Write clicks as JSON lines; `bad` says which rows are bad, and how."""
    draw = random.Random(1)
    with path.open("w") as file:
        for row in range(rows):
            user = draw.randrange(50)
            facts = {"user": f"user-{user}", "price": draw.random(), "click": user % 2}
            match bad.get(row):
                case "label":
                    facts["click"] = 7
                case "type":
                    facts["price"] = {"amount": "much"}
                case "length":
                    facts["user"] = "u" * 10_000_000
            text = json.dumps(facts)
            file.write((text[:-4] if bad.get(row) == "line" else text) + "\n")
    return path


def lines_job(source, directory, **options):
    features = [Id("user", dim=1), Number("price"), Label("click")]
    stream = Files(source, schema={"user": "string", "price": "float64", "click": "int64"})
    settings = {"batch_size": 64, "report_every_s": EVERY_BATCH_S, "checkpoint_every_s": 0.001}
    return Job(stream, features, Torch(Squares), directory, **settings | options)


def letters(directory):
    return [json.loads(line) for line in (directory / "dead_letters.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def bad():
    # Apart from each other: the place of a row behind a line that does not parse is that of the line.
    draw = random.Random(2)
    rows = [row + draw.randrange(20) for row in range(1_000, 2_000, 25)]
    return dict(zip(rows, [*["label", "type", "line"] * 13, "length"], strict=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory, bad):
    return write_lines(tmp_path_factory.mktemp("source") / "clicks.jsonl", 2_000, bad)


def test_bad_rows_are_written_with_place_and_reason_and_counted_and_training_goes_on(source, tmp_path, bad):
    end = run(lines_job(source, tmp_path)).summary.progress
    assert (end.examples, end.rejected, end.dropped) == (1_960, 40, 0)
    found = letters(tmp_path)
    assert [letter["partition"] for letter in found] == ["clicks.jsonl"] * 40
    text = source.read_bytes()
    starts = [0] + [i + 1 for i in range(len(text)) if text[i : i + 1] == b"\n"]
    by_place = {letter["position"]: letter for letter in found}
    assert sorted(by_place) == [starts[row] for row in bad]
    for row, how in bad.items():
        letter = by_place[starts[row]]
        assert letter["reason"].startswith(REASONS[how]), (how, letter)
        assert 0 < len(letter["value"]) <= 1_000


def test_a_job_stopped_and_going_on_writes_each_bad_row_once(source, tmp_path):
    run(lines_job(source, tmp_path / "whole"))
    for reports in (16, 3, 5):
        run(lines_job(source, tmp_path / "stopped"), reports=reports)
    # A crash may leave letters behind that no checkpoint knows of.
    with (tmp_path / "stopped" / "dead_letters.jsonl").open("ab") as file:
        file.write(file.name.encode() + b"\n")
    end = run(lines_job(source, tmp_path / "stopped")).summary
    assert end.resumed_from
    assert len(letters(tmp_path / "stopped")) == end.progress.rejected == 40
    assert differences(model(tmp_path / "whole"), model(tmp_path / "stopped")) == []


def test_a_job_goes_on_with_the_file_after_a_truncated_one(tmp_path):
    for name in ("a", "b", "c"):
        write_clicks(tmp_path / "clicks" / f"{name}.parquet", 1_000, seed=ord(name))
    whole = (tmp_path / "clicks" / "b.parquet").read_bytes()
    (tmp_path / "clicks" / "b.parquet").write_bytes(whole[: len(whole) // 2])
    watch = run(small_job(tmp_path / "clicks", tmp_path / "model", report_every_s=EVERY_BATCH_S))
    [letter] = [letter for letter in letters(tmp_path / "model") if letter["partition"] == "b.parquet"]
    assert letter["reason"] == "damaged parquet file"
    end = watch.summary.progress
    assert end.examples + end.rejected == 2_001
    assert end.behind == (0, "rows")


# ------------------------------------------------------------------------------------- too many of them


def test_a_job_stops_when_too_many_recent_rows_are_bad_and_says_why(tmp_path):
    bad = {row: ("label" if row % 3 else "line") for row in range(3_000, 4_000) if row % 2}
    source = write_lines(tmp_path / "clicks.jsonl", 20_000, bad)
    with pytest.raises(BadInputError) as caught:
        run(lines_job(source, tmp_path / "model", max_bad_share=0.1))
    text = str(caught.value)
    assert "the limit is 10.0%" in text
    assert text.index("label 'click'") < text.index("not valid JSON")
    assert str(tmp_path / "model" / "dead_letters.jsonl") in text


def test_a_stream_that_ends_early_is_judged_by_all_the_rows_it_had(tmp_path):
    source = write_lines(tmp_path / "clicks.jsonl", 200, dict.fromkeys(range(0, 200, 5), "label"))
    with pytest.raises(BadInputError, match=r"40 of the last 200 rows \(20\.0%\) are bad"):
        run(lines_job(source, tmp_path / "model"))
    assert run(lines_job(source, tmp_path / "allowed", max_bad_share=0.2)).summary.progress.rejected == 40


def test_a_stream_that_was_stopped_early_is_not_judged_yet(tmp_path):
    source = write_lines(tmp_path / "clicks.jsonl", 200, dict.fromkeys(range(0, 200, 5), "label"))
    assert run(lines_job(source, tmp_path / "model"), reports=1).summary.stopped


# ------------------------------------------------------------------------------- numbers that overflow


def overflowing(tmp_path, rows, every):
    lines = ["user,price,click"]
    lines += [f"{i % 7},{'3e38' if every(i) else i % 5},{i % 2}" for i in range(rows)]
    source = tmp_path / "clicks.csv"
    source.write_text("\n".join(lines) + "\n")
    return Job(
        Files(source, schema={"price": "float64"}),
        [Id("user", dim=1), Number("price"), Label("click")],
        Torch(Squares),
        tmp_path / "model",
        batch_size=10,
        report_every_s=EVERY_BATCH_S,
    )


def test_a_batch_whose_loss_is_not_finite_is_dropped_counted_and_noted(tmp_path):
    watch = run(overflowing(tmp_path, 100, lambda i: i in (25, 71)))
    assert [progress.dropped for progress in watch.seen] == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    notes = [note for note in watch.notes if "dropped" in note]
    assert [note.split(":")[0] for note in notes] == [
        "batch 3 dropped",
        "batch 8 dropped",
    ]
    assert "not finite" in notes[0]
    assert watch.report.labels["click"].examples == 80


def test_dropped_batches_are_still_counted_after_going_on(tmp_path):
    job = overflowing(tmp_path, 100, lambda i: i in (25, 71))
    run(job, reports=5)
    assert run(job).summary.progress.dropped == 2


def test_a_job_that_keeps_diverging_stops_with_an_error(tmp_path):
    job = overflowing(tmp_path, 300, lambda i: i >= 50)
    with pytest.raises(DivergedError, match="not finite in 10 batches in a row"):
        run(job)


def test_rows_without_any_use_leave_a_job_that_learns_nothing(tmp_path):
    source = tmp_path / "clicks.csv"
    source.write_text("user,click\n" + "1,9\n" * 5)
    job = Job(
        Files(source), [Id("user", dim=1), Label("click")], Torch(Sum), tmp_path / "model", max_bad_share=1.0
    )
    end = run(job).summary.progress
    assert (end.examples, end.rejected) == (0, 5)
    assert len(letters(tmp_path / "model")) == 5

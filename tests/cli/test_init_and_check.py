"""New job files, and what a job makes of the beginning of its stream."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from onstream import Label, Log, Tensor, load_job
from onstream.cli.templates import TEMPLATES, write_sample
from onstream.contracts import Chunk, Reject
from onstream.streams.chunks import NO_COLUMNS, no_rows
from tests.cli.commands import JOB, write_job


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same made-up clicks in every format."""
    folder = tmp_path_factory.mktemp("sources")
    write_sample(folder / "clicks.csv", rows=12_000)
    table = pyarrow.csv.read_csv(folder / "clicks.csv")
    pq.write_table(table, folder / "clicks.parquet")
    lines = (json.dumps(row) + "\n" for row in table.to_pylist())
    (folder / "clicks.jsonl").write_text("".join(lines))
    return folder


def measured(out, metric):
    """Return a metric over all examples, of each label."""
    found = re.findall(rf"predicted before learning, over .*\b{metric} ([\d.]+)", out)
    return [float(value) for value in found]


README = (Path(__file__).parents[2] / "README.md").read_text()

IMAGES = ("lenet", "vgg")
CASES = [(name, None) for name in TEMPLATES] + [("deepfm", suffix) for suffix in ("csv", "parquet", "jsonl")]


@pytest.mark.parametrize(("template", "suffix"), [*CASES, ("lr", "csv"), ("ffm", "csv"), ("mmoe", "csv")])
def test_a_new_job_file_is_short_and_learns(onstream, sources, template, suffix):
    source = ["--from", sources / f"clicks.{suffix}"] if suffix else []
    out = onstream.fine("init", "jobs/new.py", "--template", template, *source)
    assert "wrote jobs/new.py; next:\n  onstream check jobs/new.py\n  onstream train" in out
    assert [path.stem for path in Path("jobs").iterdir() if path.suffix != ".py"] == ["new-sample"] * (
        not suffix
    )
    lines = Path("jobs/new.py").read_text().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    assert "jobs/new.py is fine" in onstream.fine("check", "jobs/new.py")
    rate, least = (0.002, 0.35) if template in IMAGES else (0.01, 0.6)
    out = onstream.fine("train", "jobs/new.py", "--set", f"learner.lr={rate}")
    assert "cannot be exported" not in out
    reached = measured(out, "accuracy" if template in IMAGES else "auc")
    assert len(reached) == (2 if template == "mmoe" and not suffix else 1)
    assert min(reached) > least
    assert Path("models/new/manifests").is_dir()


def test_the_readme_shows_the_file_that_its_command_writes(onstream):
    commands, job = re.findall(
        r"```(?:sh|python)\n(.*?)```", README.split("## Your own model")[1], re.DOTALL
    )[:2]
    [init] = [line for line in commands.splitlines() if line.startswith("onstream init")]
    onstream.fine(*shlex.split(init, comments=True)[1:])
    assert Path("ctr.py").read_text() == job


def test_a_template_takes_its_features_from_a_source(onstream, sources, tmp_path):
    write_sample(tmp_path / "histories.csv", "din", 500)
    onstream.fine("init", "job.py", "--template", "din", "--from", "histories.csv")
    history = next(f for f in load_job("job.py").features if f.name == "history")
    assert (history.pooling, history.shared) == ("pad", "item")
    write_sample(tmp_path / "shapes.parquet", "vgg", 500)
    onstream.fine("init", "job.py", "--template", "vgg", "--from", "shapes.parquet", "--force")
    assert load_job("job.py").features == [
        Tensor("image", (1, 28, 28), scale=1 / 255),
        Label("shape", "class", classes=4),
    ]


def test_columns_that_tell_the_label_are_no_features_of_a_new_job(onstream):
    draw = np.random.default_rng(0)
    stayed, price = draw.exponential(10, 500), draw.lognormal(3, 1, 500)
    columns = {"price": price, "seconds": stayed, "click": (stayed > 20).astype(int)}
    pq.write_table(pa.table(columns), "visits.parquet")
    onstream.fine("init", "job.py", "--from", "visits.parquet")
    assert [f.name for f in load_job("job.py").features] == ["price", "click"]
    assert "    # Left out: seconds. In the first rows" in Path("job.py").read_text()
    # Somebody may want a model of all that there is.
    pq.write_table(pa.table(columns).drop(["price"]), "visits.parquet")
    onstream.fine("init", "job.py", "--from", "visits.parquet", "--force")
    assert [f.name for f in load_job("job.py").features] == ["seconds", "click"]
    assert "    # Kept, as there are no others: seconds. In the first rows" in Path("job.py").read_text()


@pytest.mark.parametrize(
    ("template", "needs"),
    [
        ("din", "DIN needs a column of ids and one of lists of ids"),
        ("lenet", "LeNet needs a column of images"),
    ],
)
def test_a_source_without_what_a_template_needs_is_refused(onstream, sources, template, needs):
    source = sources / "clicks.csv"
    said = onstream.refused("init", "job.py", "--template", template, "--from", source)
    assert needs in said and "the source has ['Id(\"user\")'" in said
    assert not Path("job.py").exists()


def test_a_directory_or_glob_of_files_is_a_source(onstream, sources):
    onstream.fine("init", "job.py", "--from", f"{sources}/*.csv")
    assert load_job("job.py").stream.path == f"{sources}/*.csv"


def test_init_does_not_write_over_a_file_unless_forced(onstream):
    Path("job.py").write_text("precious")
    said = onstream.refused("init", "job.py")
    assert said == "onstream: job.py exists; choose another name, or say --force\n"
    assert Path("job.py").read_text() == "precious"
    assert not Path("job-sample.csv").exists()
    onstream.fine("init", "job.py", "--force")
    assert load_job("job.py").batch_size == 256


@pytest.mark.parametrize("name", ["keras", "random"])
def test_a_name_that_would_hide_a_module_is_refused(onstream, name):
    said = onstream.refused("init", f"jobs/{name}.py", "--template", "keras")
    assert f"jobs/{name}.py would hide the module {name!r} from what imports it; choose another name" in said
    assert list(Path().iterdir()) == []


def test_an_unknown_template_is_refused_and_nothing_is_written(onstream):
    said = onstream.refused("init", "new/job.py", "--template", "transformer")
    known = ", ".join(TEMPLATES)
    assert said == f"onstream: there is no template 'transformer'; there are {known}\n"
    assert list(Path().iterdir()) == []


def test_a_source_that_is_not_there_or_empty_is_refused(onstream):
    said = onstream.refused("init", "job.py", "--from", "nothing.csv", code=1)
    assert (
        said
        == "onstream: no file matches 'nothing.csv'; check the path; Files(..., follow=True) waits for one\n"
    )
    Path("empty.csv").write_text("user,click\n")
    assert "empty.csv has no rows to guess features from" in onstream.refused(
        "init", "job.py", "--from", "empty.csv"
    )
    assert not Path("job.py").exists()


# ------------------------------------------------------------------------------------------------ check


def test_check_prints_the_job_its_first_rows_and_what_it_predicts(onstream, here):
    job = write_job(here)
    out = onstream.fine("check", job, "--rows", "2")
    for text in (
        "'stream': {",
        "'kind': 'Files'",
        f"'path': '{here / 'clicks.csv'}'",
        "'kind': 'Torch'",
        "'network': 'Net'",
        "'batch_size': 64",
        "'checkpoint_every_s': 10.0",
        "columns of the stream: user (int64), price (int64), click (int64)",
        "row 1",
        "row 2",
        "predicted click, before training: [",
    ):
        assert text in out
    assert "row 3" not in out
    assert out.endswith(f"{job} is fine\n")
    assert not (here / "model").exists()


def test_check_prints_rejected_rows_with_their_reasons(onstream, here):
    lines = ["user,price,click", "1,2,1", "2,3,9", "3,[/red],1", "too,many,columns,here", "4,5,0"]
    job = write_job(here, JOB.replace("{source!r})", "{source!r}, schema={{'price': 'string'}})"))
    (here / "clicks.csv").write_text("\n".join(lines) + "\n")
    out = onstream.fine("check", job, "--rows", "5")
    assert re.search("rejected +label 'click': expected 0 or 1 *\n +value +9", out)
    assert re.search(r"rejected +column 'price': not a number *\n +value +\[/red\]", out)
    assert "rejected: clicks.csv at 40: expected 3 columns, got 4" in out
    assert "row 4" in out


def test_check_of_a_misspelled_column_names_those_like_it(onstream, here):
    job = write_job(here, JOB.replace('"price"', '"pirce"'))
    code, out, err = onstream("check", job)
    assert (code, err) == (1, "")
    assert "there is no column 'pirce'; did you mean 'price'?\n" in out
    assert out.count("missing column 'pirce'") == 3
    assert not re.search("^ *value *$", out, re.MULTILINE)
    job = write_job(here, JOB.replace('"price"', '"PRICE"'))
    assert "there is no column 'PRICE'; did you mean 'price'?\n" in onstream("check", job)[1]
    job = write_job(here, JOB.replace('"price"', '"zzz"'))
    assert "did you mean" not in onstream("check", job)[1]


def test_check_shows_what_is_rejected_even_if_there_is_no_good_row(onstream, here):
    job = write_job(here)
    (here / "clicks.csv").write_text("user,price,click\n" + "1,2,9\n" * 3)
    code, out, err = onstream("check", job)
    assert (code, err) == (1, "")
    assert out.count("label 'click': expected 0 or 1") == 3
    assert "predicted" not in out and "is fine" not in out
    assert "every one of these rows is rejected" in out


def test_check_of_a_stream_that_has_nothing_but_rejects_is_short_and_not_fine(onstream, here):
    job = write_job(here)
    (here / "clicks.csv").write_text("user,price,click\n" + "1,2\n" * 5_000)
    code, out, err = onstream("check", job)
    assert (code, err) == (1, "")
    assert out.count("\nrejected: ") == 10
    assert re.search(r"\n\.\.\. and [\d,]+ more\n", out)
    assert "is fine" not in out
    assert "every row that came is rejected" in out


def test_check_ends_on_a_live_stream_whose_rows_are_all_rejected(here):
    class Bad:
        live = True
        given = 0

        def read(self, positions, *, max_rows, stop):
            while not stop.is_set():
                self.given += 1
                assert self.given < 100_000
                rejects = (Reject("bad", self.given, "wrong", ""),)
                yield Chunk(no_rows(NO_COLUMNS), "bad", self.given, rejects=rejects)

        def behind(self, positions):
            return None

        def schema(self):
            return pa.schema([("user", pa.int64())])

    found = load_job(write_job(here)).replace({"stream": Bad()}).check()
    assert (found.rows, found.rejects[0].reason) == ([], "wrong")
    assert len(found.rejects) < 10_000


def test_check_looks_only_at_columns_that_the_job_reads(onstream, here):
    job = write_job(here)
    (here / "clicks.csv").write_text("user,price,click,note\n1,2,1,5\n")
    text = JOB.replace("{source!r})", "{source!r}, schema={{'note': 'date32'}})")
    assert "rejected" not in onstream.fine("check", write_job_only(job, text))


def write_job_only(job, text):
    """Write the job file anew, and leave its source."""
    folder = job.parent
    job.write_text(text.format(source=str(folder / "clicks.csv"), directory=str(folder / "model")))
    return job


def test_check_of_a_stream_without_rows(onstream, here):
    job = write_job(here)
    (here / "clicks.csv").write_text("user,price,click\n")
    assert "job.py is fine, but its stream has no rows yet" in onstream.fine("check", job)


def test_check_tells_what_the_stream_has_to_say(onstream, here):
    text = JOB.replace("Files,", "Json, Kafka,").replace(
        "Files({source!r})",
        "Kafka('clicks', servers='127.0.0.1:1', format=Json(pa.schema([('user', pa.int64())])))",
    )
    job = write_job(here, "import pyarrow as pa\n" + text)
    out = onstream.fine("check", job, "--set", "max_wait_s=5")
    assert "Kafka at '127.0.0.1:1': 1/1 brokers are down" in out
    assert "job.py is fine, but its stream has no rows yet" in out


def test_check_does_not_wait_for_a_silent_log(onstream, here):
    text = JOB.replace("Files,", "Files, Log,").replace("Files({source!r})", "Log({source!r} + '.db')")
    job = write_job(here, text)
    out = onstream.fine("check", job, "--set", "max_wait_s=0.1")
    assert "job.py is fine, but its stream has no rows yet" in out
    Log(here / "clicks.csv.db").append(pa.record_batch({"user": [1], "price": [2], "click": [1]}))
    out = onstream.fine("check", job)
    assert "columns of the stream: user (int64)" in out
    assert "row 1" in out

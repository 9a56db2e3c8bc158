"""What a wrong job file, setting or option is told: one sentence, with exit code 2."""

import os
import subprocess
import sys

import pytest

from onstream.cli.mistakes import mistakes_shown
from tests.cli.commands import JOB, write_job

COMMANDS = ["check", "train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_job_file(onstream, tmp_path, command):
    said = onstream.refused(command, tmp_path / "job.py")
    assert said == (
        f"onstream: there is no job file '{tmp_path / 'job.py'}'; "
        f"`onstream init {tmp_path / 'job.py'}` writes one\n"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_syntax_error_is_told_with_its_line(onstream, tmp_path, command):
    job = write_job(tmp_path, JOB.replace("batch_size=64", "batch_size 64"))
    said = onstream.refused(command, job)
    line = job.read_text().splitlines().index("    batch_size 64,") + 1
    assert f"{job}, line {line}: SyntaxError: " in said


def test_an_exception_is_told_with_the_line_of_the_job_file(onstream, tmp_path):
    job = write_job(tmp_path, JOB + "\nshare = 1 / 0\n")
    said = onstream.refused("check", job)
    assert f"{job}, line {len(job.read_text().splitlines())}: ZeroDivisionError: division by zero\n" in said


def test_a_mistake_in_an_imported_file_is_told_with_the_line_of_the_import(onstream, tmp_path):
    (tmp_path / "neighbour_with_mistake.py").write_text("\n\n\nx = (\n")
    job = write_job(tmp_path, "import neighbour_with_mistake\n" + JOB)
    said = onstream.refused("check", job)
    assert f"{job}, line 1: SyntaxError: '(' was never closed (neighbour_with_mistake.py, line 4)" in said


def test_a_job_file_may_import_its_neighbours(onstream, tmp_path):
    (tmp_path / "neighbour_with_size.py").write_text("size = 32\n")
    job = write_job(tmp_path, "from neighbour_with_size import size\n" + JOB.replace("=64", "=size"))
    assert "'batch_size': 32" in onstream.fine("check", job)
    assert str(tmp_path) not in sys.path


MISTAKE = JOB.replace("x.stack()", "x.stak()")


def command(*arguments, **environment):
    """Run a command in a process of its own, whose stack is that of a user."""
    ended = subprocess.run(
        [sys.executable, "-m", "onstream", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("name", ["check", "train"])
def test_a_mistake_in_the_network_is_shown_from_the_job_file_on(tmp_path, name):
    job = write_job(tmp_path, MISTAKE)
    line = next(n for n, text in enumerate(job.read_text().splitlines(), 1) if "stak" in text)
    code, said = command(name, str(job))
    assert code == 1
    what = "AttributeError: 'Inputs' object has no attribute 'stak'"
    assert said.startswith(f"onstream: {job}, line {line}: {what}")
    assert f'Traceback (most recent call last):\n  File "{job}", line {line}, in forward\n' in said
    assert "typer" not in said and "trainer" not in said
    assert "ONSTREAM_TRACEBACK=1 shows what led there" in said
    code, said = command(name, str(job), ONSTREAM_TRACEBACK="1")
    assert code == 1
    assert "typer" in said and "trainer" in said and what in said


def test_a_mistake_in_a_neighbour_of_the_job_file_is_shown_from_there_on(tmp_path):
    (tmp_path / "neighbour_with_network.py").write_text("def deep(x):\n    return x.numbers() / None\n")
    text = "from neighbour_with_network import deep\n" + JOB.replace("x.stack().sum((1, 2))", "deep(x)")
    job = write_job(tmp_path, text)
    code, said = command("train", str(job))
    assert code == 1
    assert said.startswith(f"onstream: {tmp_path / 'neighbour_with_network.py'}, line 2: TypeError: ")
    assert said.index(f'File "{job}"') < said.rindex(f'File "{tmp_path / "neighbour_with_network.py"}"')
    assert "trainer" not in said


def test_an_error_that_no_line_of_the_job_file_is_part_of_stays_whole(tmp_path, capsys):
    # As of onstream itself: this file is neither the job file nor beside it.
    with pytest.raises(RuntimeError), mistakes_shown(write_job(tmp_path)):
        raise RuntimeError("of nobody's job file")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "found"),
    [("x = 1\n", "this one makes no Job"), (JOB + "other = job.replace({{'keep': 1}})\n", "makes 2 Jobs")],
)
def test_a_job_file_makes_one_job(onstream, tmp_path, text, found):
    assert found in onstream.refused("train", write_job(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("batch_size=64", "batch_size=0", "batch_size must be a whole number of at least 1, got 0"),
        ("batch_size=64", "batch=64", "unexpected keyword argument 'batch'"),
        ("batch_size=64", 'optimizer="adam"', "optimizer must be such as Adagrad(lr=0.05), got 'adam'"),
        ('Id("user", dim=1)', 'Id("user", dim=0)', "Id('user'): dim must be a whole number"),
        (', Label("click")', "", "there is no label to learn; declare one, such as Label('click')"),
        ("Torch(Net)", 'Torch(Net, optimizer="fast")', "optimizer must be one of"),
        ("Files({source!r})", "Files({source!r}, rate=-1)", "rate must be a number of rows a second above 0"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(onstream, tmp_path, old, new, text):
    assert old in JOB
    job = write_job(tmp_path, JOB.replace(old, new))
    said = onstream.refused("check", job)
    assert text in said
    assert f"{job}, line " in said


def test_an_expiry_without_event_time(onstream, tmp_path):
    text = JOB.replace("Label,", "Label, Expire,").replace("dim=1", 'dim=1, expiry=Expire("3d")')
    said = onstream.refused("train", write_job(tmp_path, text))
    assert "an expiry counts event time; declare its column, such as EventTime('timestamp')" in said


def test_a_column_that_the_stream_does_not_have_makes_every_row_bad(onstream, tmp_path):
    job = write_job(tmp_path, JOB.replace('Number("price")', 'Number("price"), Number("cost")'))
    said = onstream.refused("train", job, code=1)
    assert "640 of the last 640 rows (100.0%) are bad" in said
    assert "missing column 'cost' (640)" in said
    assert "did you mean" not in said
    job.write_text(job.read_text().replace('Number("cost")', 'Number("prise")'))
    said = onstream.refused("train", job, code=1)
    assert said.endswith("; there is no column 'prise'; did you mean 'price'?\n")


def test_a_job_that_keeps_diverging_ends_with_1(onstream, tmp_path):
    text = JOB.replace("x.numbers())", "x.numbers().square())").replace("batch_size=64", "batch_size=16")
    job = write_job(tmp_path, text)
    (tmp_path / "clicks.csv").write_text("user,price,click\n" + "1,3e38,1\n" * 640)
    said = onstream.refused("train", job, code=1)
    assert "loss or gradients were not finite in 10 batches in a row" in said


def test_a_stream_that_is_not_there(onstream, tmp_path):
    job = write_job(tmp_path, source=str(tmp_path / "nothing" / "*.csv"))
    assert "nothing/*.csv" in onstream.refused("train", job, code=1)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("batch_size", "--set takes NAME=VALUE, such as --set batch_size=4096, got 'batch_size'"),
        ("=5", "--set takes NAME=VALUE"),
        ("batchsize=5", "there is no setting 'batchsize'; the settings of Job: admission, batch_size, "),
        ("batch_size=5.5", "batch_size=5.5: batch_size must be a whole number of at least 1, got 5.5"),
        ("batch_size=many", "batch_size='many': batch_size must be"),
        ("learner.speed=5", "there is no setting 'learner.speed'; the settings of Torch: clip_norm, "),
        ("learner.precision=fp8", "learner.precision='fp8': Torch: precision must be 'fp32' or 'bf16'"),
        ("optimizer.lr=5", "there is no setting 'optimizer.lr'; the settings of NoneType: none"),
        (
            "stream.speed=5",
            "there is no setting 'stream.speed'; the settings of Files: clock, column_names, ",
        ),
        ("stream.rate=0", "stream.rate=0: rate must be a number of rows a second above 0, got 0"),
        ("stream.rate=fast", "stream.rate='fast': "),
        (
            "stream.format=xls",
            "stream.format='xls': format must be one of csv, tsv, jsonl, vw, libsvm, libffm, parquet, arrow",
        ),
        ("expiry=3d", "expiry='3d': expiry must be such as Expire"),
    ],
)
def test_a_wrong_set_is_refused_and_names_what_there_is(onstream, tmp_path, change, text):
    assert text in onstream.refused("train", write_job(tmp_path), "--set", change)


def test_settings_are_changed_by_set(onstream, tmp_path):
    job = write_job(tmp_path)
    (tmp_path / "2024").mkdir()
    (tmp_path / "2024" / "other.csv").write_text("user,price,click\n1,1,1\n")
    changes = {
        "batch_size": "128",
        "learner.lr": "0.25",
        "learner.optimizer": "sgd",
        "keep": "3",
        "threads": "null",
        "directory": "2024",
        "stream.path": str(tmp_path / "2024"),
        "stream.rate": "50_000",
        "stream.follow": "true",
        "stream.max_line_bytes": "4096",
        "stream.types": "{'user': 'int32'}",
    }
    out = onstream.fine(
        "check", job, *(part for item in changes.items() for part in ("--set", "=".join(item)))
    )
    for text in (
        "'batch_size': 128",
        "'lr': 0.25",
        "'optimizer': 'sgd'",
        "'keep': 3",
        "'threads': None",
        "'directory': '2024'",
        f"'path': '{tmp_path / '2024'}'",
        "'rate': 50000",
        "'follow': True",
        "'max_line_bytes': 4096",
        "columns of the stream: user (int32), price (int64), click (int64)",
    ):
        assert text in out


def test_a_changed_stream_is_what_is_read(onstream, tmp_path):
    job = write_job(tmp_path)
    text = "user,price,click\n" + "1,1,1\n" * 30
    (tmp_path / "other.csv").write_text(text)
    out = onstream.fine("train", job, "--set", f"stream.path={tmp_path / 'other.csv'}")
    assert "the stream ended: 30 examples learned now" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fly"], "No such command 'fly'"),
        (["train"], "Missing"),
        (["train", "job.py", "--fast"], "No such option"),
        (["check", "job.py", "--rows", "0"], "--rows"),
        (["train", "job.py", "--every", "soon"], "--every"),
        (["checkpoints", "shred", "."], "No such command 'shred'"),
    ],
)
def test_a_wrong_option_is_refused(onstream, arguments, text):
    code, _, err = onstream(*arguments)
    assert code == 2
    assert text in err
    assert "Traceback" not in err


def test_a_process_of_its_own_ends_with_the_same_code_and_sentence(tmp_path):
    command = [sys.executable, "-m", "onstream", "train", str(tmp_path / "job.py")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("onstream: there is no job file")
    assert ended.stdout == ""

"""What a running job shows."""

import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

from tests.cli.commands import JOB, write_job, write_rows

GROUPED = JOB.replace("Id, Job", "Group, Id, Job").replace("Label(", 'Group("user"), Label(')


def test_without_a_terminal_there_is_a_line_every_few_seconds(onstream, tmp_path):
    job = write_job(tmp_path, GROUPED)
    often = ["--set", "report_every_s=1e-6"]
    every = [f"--set=directory={tmp_path / 'every'}", "--every", "0"]
    lines = onstream.fine("train", job, *often, *every).splitlines()
    shown = [line for line in lines if line.startswith("examples=")]
    assert len(shown) == 640 // 64 + 1
    assert re.fullmatch(
        r"examples=640 examples/s=\d+ auc=[\d.]+ log_loss=[\d.]+ ne=[\d.]+ calibration=[\d.]+ "
        r"accuracy=[\d.]+ gauc_user=\S+ rows=50 checkpoint=1 lag=0_bytes",
        shown[-1],
    )
    seldom = [f"--set=directory={tmp_path / 'seldom'}", "--every", "1000"]
    assert onstream.fine("train", job, *often, *seldom).count("examples=") == 1


def test_the_end_says_what_was_learned_where_it_is_kept_and_how_good_it_was(onstream, tmp_path):
    job = write_job(tmp_path)
    said, quality = onstream.fine("train", job).splitlines()[-2:]
    assert said == (
        f"the stream ended: 640 examples learned now, 640 in all; "
        f"checkpoint 1 in {tmp_path / 'model'} holds them"
    )
    assert re.match(r"click, predicted before learning, over 640 examples: auc 0\.\d{4}, log_loss ", quality)
    again = onstream.fine("train", job)
    assert "going on from checkpoint 1, after 640 examples\n" in again
    assert "the stream ended: 0 examples learned now, 640 in all; checkpoint 1 in" in again


def test_rejected_rows_and_dropped_batches_are_in_the_line(onstream, tmp_path):
    job = write_job(tmp_path, JOB.replace("x.numbers())", "x.numbers().square())"))
    rows = ["1,2,9", *["1,3e38,1"] * 10, *["1,2,1"] * 200]
    (tmp_path / "clicks.csv").write_text("\n".join(["user,price,click", *rows]) + "\n")
    out = onstream.fine("train", job, "--set", "batch_size=32", "--set", "stream.types={'price': 'double'}")
    assert re.search(r"examples=210 .* rejected=1 dropped_batches=1\n", out)
    assert "batch 1 dropped: its loss or gradients are not finite" in out


# --------------------------------------------------------------------------------------- on a terminal


def on_a_terminal(command, *, directory=None, columns=100, until=None):
    """Run a command on a terminal of its own; return its exit code and all that it wrote there.

    With `until`, Ctrl-C is pressed once that is on the screen.
    """
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    environment |= {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=directory
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            read = os.read(ours, 65_536)
        except OSError:
            # How Linux says that nobody holds the other end any more.
            break
        if not read:
            break
        written += read
        if until is not None and re.search(until, screen(written.decode(errors="replace"))):
            until = None
            process.send_signal(signal.SIGINT)
    os.close(ours)
    return process.wait(), written.decode()


def screen(written):
    """What was written, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written)


def test_on_a_terminal_a_live_view_shows_all_that_matters(tmp_path):
    job = write_job(tmp_path, GROUPED)
    arguments = ["--set", "report_every_s=0.01", "--set", "checkpoint_every_s=0.01"]
    code, written = on_a_terminal([sys.executable, "-m", "onstream", "train", str(job), *arguments])
    assert code == 0, written
    # The cursor is hidden while the view is redrawn, and comes back.
    assert written.index("\x1b[?25l") < written.index("\x1b[?25h")
    shown = screen(written)
    last = shown[shown.rindex(f"onstream train {job}"[:60]) :]
    for text in (
        r"examples +640 ",
        r"examples/s +[\d,]+ ",
        r"table rows +50 in [\d.]+ [kM]B",
        r"checkpoint +\d+, \d+ s ago",
        r"lag +0 bytes",
        r"rejected +0 rows",
        r"click +AUC +log loss +NE +calibration +accuracy +GAUC by user",
        r"window( +[\d.]+){5} +(-|[\d.]+)",
        r"overall( +[\d.]+){5}",
        r"click AUC +[▁▂▃▄▅▆▇█]+ +\d\.\d{4}",
    ):
        assert re.search(text, last), (text, last)
    assert "the stream ended: 640 examples learned now" in last
    assert "examples=640" not in shown


def test_on_a_narrow_terminal_the_newest_part_of_a_curve_stands_beside_its_value(tmp_path):
    job = write_job(tmp_path)
    write_rows(tmp_path / "clicks.csv", 64 * 100)
    arguments = ["--set", "report_every_s=1e-6"]
    command = [sys.executable, "-m", "onstream", "train", str(job), *arguments]
    code, written = on_a_terminal(command, columns=80)
    assert code == 0, written
    last = screen(written).rsplit("╭", 1)[1]
    # Two of the frame and four of the space within it are left of 80, the name and the value before and after.
    (curve,) = re.findall(r"^│    click AUC  ([▁▂▃▄▅▆▇█]+)  \d\.\d{4}  │\r?$", last, re.MULTILINE)
    assert len(curve) == 80 - 6 - len("  click AUC  ") - len("  0.1234")


def test_the_last_view_of_a_job_that_was_served_keeps_the_numbers_of_its_server(tmp_path):
    job = write_job(tmp_path)
    ports = ["--rest-port", "0", "--grpc-port", "-1", "--flight-port", "-1"]
    command = [sys.executable, "-m", "onstream", "run", str(job), *ports]
    code, written = on_a_terminal(command, until=r"serves version +\d")
    assert code == 0, written
    last = screen(written).rsplit("╭", 1)[1]
    assert "no numbers yet" not in last
    assert re.search(r"serves version +\d", last)


def test_a_job_that_is_stopped_before_it_learned_has_no_numbers_to_tell(tmp_path):
    job = write_job(tmp_path)
    command = [sys.executable, "-m", "onstream", "train", str(job), "--set", "stream.follow=true"]
    (tmp_path / "clicks.csv").write_text("user,price,click\n")
    code, written = on_a_terminal(command, until="reading the first examples|examples +0")
    assert code == 130, written
    assert "0 examples learned now, 0 in all; nothing to keep" in screen(written)
    assert "predicted before learning" not in written and "nan" not in written


def test_brackets_in_names_are_shown_as_they_are(tmp_path):
    text = JOB.replace('Label("click")', 'Label("[red]click", column="click")')
    (tmp_path / "a[bold]b").mkdir()
    write_job(tmp_path / "a[bold]b", text)
    command = [sys.executable, "-m", "onstream", "train", "a[bold]b/job.py"]
    code, written = on_a_terminal(command, directory=tmp_path)
    assert code == 0, written
    last = screen(written).rsplit("╭", 1)[1]
    assert "onstream train a[bold]b/job.py" in last
    assert re.search(r"\[red\]click +AUC +log loss", last)

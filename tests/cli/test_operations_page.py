"""The commands of docs/operations.md run as they stand there."""

import re
import shlex
from pathlib import Path

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.trainer import Settings
from tests.cli.commands import write_job, write_rows

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()


def test_the_commands_of_the_page_run(onstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, directory="models/ctr")
    # Long enough that several checkpoints are written on the way, however slow the disk is.
    write_rows(tmp_path / "clicks.csv", 20_000)
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    assert len(commands) == 12
    often = ["--set", "checkpoint_every_s=1e-6", "--set", "report_every_s=1e-6"]
    gated = next(line for line in commands if "gate=" in line)
    onstream.fine(*shlex.split(gated)[1:], *often, "--set", "gate_min_examples=64")
    log = CheckpointLog(LocalStore("models/ctr"))
    assert len(log.tag_details()["production"].before) > 0
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "onstream"
        if arguments[0] == "resume":
            LocalStore("models/ctr").write("paused.json", [b"{}"])
        onstream.fine(*arguments)
    assert log.tags().keys() == {"candidate", "production", "trusted"}


def test_every_setting_of_the_page_is_one_and_has_the_default_that_it_says():
    named = set(re.findall(r"`([a-z]+_[a-z_]+)`", PAGE)) - {"label_rate"}
    prometheus = {name for name in named if name.startswith("onstream_")}
    assert named - prometheus <= set(Settings.__dataclass_fields__)
    source = (Path(__file__).parents[2] / "src/onstream/evaluate/prometheus.py").read_text()
    assert prometheus
    assert all(f'"{name}"' in source for name in prometheus)
    assert f"`gate_min_examples` ({Settings.gate_min_examples:,})" in PAGE
    assert f"guard_rows={Settings.guard_rows}" in PAGE

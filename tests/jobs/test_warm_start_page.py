"""What docs/warm-start.md shows runs as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from onstream.checkpoints import CheckpointLog, LocalStore
from tests.cli.commands import Command

PAGE = (Path(__file__).parents[2] / "docs/warm-start.md").read_text()


@pytest.fixture
def onstream(monkeypatch, capsys):
    return Command(monkeypatch, capsys)


def test_the_page_runs(onstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, job = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(before, {})
    Path("job.py").write_text(job)
    check, train = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()
    assert "predicted click, before training: " in onstream.fine(*shlex.split(check)[1:])
    assert not Path("models").exists()
    assert "20,000 examples learned now" in onstream.fine(*shlex.split(train)[1:])
    manifest = CheckpointLog(LocalStore("models/clicks")).newest()
    [chain] = manifest.tables.values()
    assert sum(segment.rows for segment in chain.segments) == 1_200

"""What docs/evolution.md shows runs as it stands there."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from onstream import Policy
from onstream.checkpoints import CheckpointLog, LocalStore
from tests.cli.commands import Command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/evolution.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def onstream(monkeypatch, capsys):
    return Command(monkeypatch, capsys)


def test_the_commands_and_the_code_of_the_page_run(onstream, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policy, *programs = blocks("python")
    assert policy.startswith("# cartpole.py\n")
    Path("cartpole.py").write_text(policy)
    for program in programs:
        exec(compile(program, "docs/evolution.md", "exec"), {"__name__": "page"})
    Path("job.py").write_text(programs[-1])
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("onstream")]
    assert len(commands) == 9
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "onstream"
        if arguments[:2] == ["es", "run"]:
            # How four samplers solve CartPole is a long test.
            arguments += ["--updates", "1", "--samplers", "1"]
        out = onstream.fine(*arguments)
        if arguments[:2] == ["es", "run"]:
            assert out.endswith("\n1 update\n")
    assert float(re.search(r"accuracy ([\d.]+)", out)[1]) > 0.6
    assert CheckpointLog(LocalStore("models/cartpole")).versions() == [1, 2, 3]
    assert CheckpointLog(LocalStore("models/cartpole-job")).versions() == [1, 2]


def test_the_loop_of_the_page_is_there():
    assert "SEED=2 examples/cartpole.sh models/cartpole-loop" in blocks("sh")[1]
    script = (ROOT / "examples/cartpole.sh").read_text()
    for verb in ("init", "evaluate", "sample", "update"):
        assert f"onstream es {verb} " in script
    assert (ROOT / "examples/cartpole.sh").stat().st_mode & 0o111


def test_the_defaults_are_those_of_the_page():
    defaults = {field.name: field.default for field in dataclasses.fields(Policy)}
    told = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE, re.MULTILINE))
    assert len(told) == 11
    for name, text in told.items():
        expected = {"none": None}.get(text, text.strip('`"'))
        assert str(defaults[name]) == str(expected) or float(defaults[name]) == float(expected)

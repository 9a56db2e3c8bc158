"""The blocks of docs/choice.md run as they stand there, in their order."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/choice.md").read_text()


@pytest.mark.long
def test_the_page_runs(tmp_path):
    blocks = re.findall(r"```(python|sh)\n(.*?)```", PAGE, re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "python", "python", "sh", "python"]

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    programs = [text for kind, text in blocks if kind == "python"]
    # One process for all: each alone would load PyTorch anew.
    said = run("-c", "\n".join(programs)).splitlines()
    assert said[0].startswith("[1 3] [0.9")
    assert said[1:] == ["True", "True"]
    [commands] = [text for kind, text in blocks if kind == "sh"]
    table, one = (run("-m", "onstream", *shlex.split(line)[1:]) for line in commands.splitlines())
    assert "snips" in table
    assert 0.5 < json.loads(one)["dr"]["value"] < 0.8

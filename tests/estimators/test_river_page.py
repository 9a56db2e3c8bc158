"""The blocks of docs/river.md run as they stand there, and say what the page says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from onstream.checkpoints import CheckpointLog, LocalStore

PAGE = (Path(__file__).parents[2] / "docs/river.md").read_text()


@pytest.mark.long
def test_the_page_runs(tmp_path):
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    data, job, *others = programs
    run("-c", data)
    (tmp_path / "job.py").write_text(job)
    assert commands[0].startswith("pip install")
    for command in commands[1:]:
        name, *arguments = shlex.split(command)
        assert name == "onstream"
        run("-m", "onstream", *arguments)
    log = CheckpointLog(LocalStore(tmp_path / "models/phishing"))
    metrics = log.read(log.versions()[-1]).facts["metrics"]
    assert f"the job's own `auc` says {metrics['phishing/overall/auc']:.4f}".lower() in PAGE.lower()
    # One process for all: each alone would load PyTorch anew.
    said = run("-c", "\n".join(others)).splitlines()
    assert said[0].startswith("ROCAUC: 95")
    assert said[1].startswith("MAE: 0.46")
    assert said[2:] == ["True", "True"]

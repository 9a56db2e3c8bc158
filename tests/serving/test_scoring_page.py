"""The command and the programs of docs/scoring.md run as they stand there, on the model of the README."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs/scoring.md").read_text()


def test_the_page_runs(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    run("-m", "onstream", "init", "ctr.py", "--template", "deepfm")
    # The one checkpoint at the end, however long it takes.
    run("-m", "onstream", "train", "ctr.py", "--set", "checkpoint_every_s=1e9")
    [command] = re.findall(r"```sh\n(.*?)\n```", PAGE)
    requests, program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    name, *arguments = shlex.split(command)
    assert name == "onstream"
    run("-c", requests)
    assert re.search(r"rows=20 rows/s=\d+ errors=0 ", run("-m", "onstream", *arguments))
    run("-c", requests)
    assert run("-c", program) == "20 1\n"

"""The command and the program of docs/scoring.md run as they stand there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from onstream.streams import Log
from tests.serving import clicks

PAGE = (Path(__file__).parents[2] / "docs/scoring.md").read_text()


def test_the_page_runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "models/ctr")
    with Log(tmp_path / "requests.db") as log:
        log.append(clicks.rows(20))
    [command] = re.findall(r"```sh\n(.*?)\n```", PAGE)
    [program] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    name, *arguments = shlex.split(command)
    assert name == "onstream"
    said = subprocess.run(
        [sys.executable, "-m", "onstream", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "rows=20 " in said.stdout
    with Log(tmp_path / "requests.db") as log:
        log.append(clicks.rows(5))
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout == "5 2\n"

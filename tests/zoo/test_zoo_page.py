"""What docs/zoo.md shows runs as it stands there."""

import re
import shlex
from pathlib import Path

from onstream import zoo
from onstream.cli.templates import TEMPLATES
from tests.cli.commands import Command

PAGE = (Path(__file__).parents[2] / "docs/zoo.md").read_text()


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onstream = Command(monkeypatch, capsys)
    [commands] = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for command in commands.splitlines():
        name, *arguments = shlex.split(command)
        assert name == "onstream"
        onstream.fine(*arguments)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, {})
    assert (tmp_path / "models/wide/manifests").is_dir()


def test_the_page_names_every_network_and_its_template():
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", PAGE, re.MULTILINE)
    templates = {name: template.network for name, template in TEMPLATES.items() if name != "keras"}
    assert dict(rows) == templates
    assert {network for _, network in rows} == set(zoo.__all__)

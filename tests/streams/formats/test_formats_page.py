"""The code of docs/formats.md runs as it stands there, and its table names every format."""

import re
from pathlib import Path

import onstream
from onstream.streams import formats

PAGE = (Path(__file__).parents[3] / "docs/formats.md").read_text()


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(compile(block, "docs/formats.md", "exec"), {})


def test_the_table_names_every_format():
    every = set(formats.__all__) - {"Decoded", "Format", "Undecodable"}
    assert set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == every
    assert every <= set(onstream.__all__)

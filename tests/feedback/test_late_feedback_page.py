"""The page on late feedback: its code runs as it stands there, and its table has every policy."""

import contextlib
import io
import re
from pathlib import Path

from onstream.feedback.policies import _AFTER_SHARE, _MEASURED, POLICIES

PAGE = (Path(__file__).parents[2] / "docs/late-feedback.md").read_text()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    names = {"__name__": "page"}
    with contextlib.redirect_stdout(said):
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "docs/late-feedback.md", "exec"), names)
    metrics, calibration = said.getvalue().splitlines()
    assert float(re.search(r"'auc': ([\d.]+)", metrics)[1]) > 0.6
    assert 0.8 < float(calibration) < 1.2
    assert Path("models/bought").is_dir()


def test_the_table_has_every_policy_and_the_page_the_defaults():
    assert re.findall(r'^\| `"(\w+)"` \| [a-z]', PAGE, re.MULTILINE) == list(POLICIES)
    assert (_AFTER_SHARE, _MEASURED) == (0.01, 0.1)
    assert "a hundredth of the window" in PAGE
    assert "a tenth,\nchosen by key" in PAGE

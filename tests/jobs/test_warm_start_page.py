"""What docs/warm-start.md shows runs as it stands there."""

import re
from pathlib import Path

from onstream import load_job
from onstream.checkpoints import CheckpointLog, LocalStore

PAGE = (Path(__file__).parents[2] / "docs/warm-start.md").read_text()


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{row % 90},{row % 7},{row % 2}" for row in range(600)]
    Path("clicks.csv").write_text("\n".join(["user,item,click", *lines]) + "\n")
    before, job = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(before, {})
    Path("job.py").write_text(job.removesuffix("job.train()\n"))
    assert load_job("job.py").train().learned == 600
    manifest = CheckpointLog(LocalStore("models/clicks")).newest()
    [chain] = manifest.tables.values()
    assert sum(segment.rows for segment in chain.segments) == 1_200

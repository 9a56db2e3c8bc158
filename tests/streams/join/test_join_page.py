"""The page on the join: its code runs as it stands there, and it names what there is."""

import re
import threading
from pathlib import Path

from onstream import load_job
from onstream.streams.join.figures import Counts, Figures, Standing

PAGE = (Path(__file__).parents[3] / "docs/join.md").read_text()


class Until:
    """Stops a run once so many examples are learned, and the join has told of them."""

    def __init__(self, examples):
        self.examples, self.stop, self.newest = examples, threading.Event(), None

    def progress(self, progress):
        self.newest = progress
        if progress.examples >= self.examples and "join/clicked/coverage" in progress.stream:
            self.stop.set()

    def note(self, text):
        pass


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs, job = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(logs, "docs/join.md", "exec"), {"__name__": "page"})
    Path("job.py").write_text(job)
    made = load_job("job.py")
    assert set(made.check().rows[0]) == {"user", "item", "clicked"}
    seen = Until(18_000)
    made.replace({"report_every_s": 1e-6}).train(seen, stop=seen.stop)
    figures = seen.newest.stream
    assert 0.1 < figures["join/clicked/coverage"] < 0.3
    assert figures["join/clicked/delay_p50_s"] > 10
    assert seen.newest.report.labels["clicked"].window["auc"] > 0.65


def test_the_commands_of_the_page_are_check_and_run():
    commands = [
        line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
    ]
    assert commands == ["onstream check job.py", "onstream run job.py"]


def test_every_figure_of_the_page_is_reported():
    figures = Figures(("clicked",), impressions=1, closed=1, feedback=[Counts(rows=1)])
    figures.delays[0].counts[100] = 1
    flat = Standing(0, 0, 0, 0, 0, 0, 0).flat(figures, 0.0)
    named = set(re.findall(r"`(join/[\w/]+)`", PAGE)) | {
        f"join/clicked/delay{end}" for end in re.findall(r"`(_p\d+_s)`", PAGE)
    }
    table = {row.rsplit("|", 2)[1].strip(" `") for row in PAGE.splitlines() if row.startswith("| ")}
    counted = {name for name in table if re.fullmatch(r"\w+_?\w+", name)} - {"what", "where"}
    named |= {f"join/{name}" if f"join/{name}" in flat else f"join/clicked/{name}" for name in counted - {""}}
    assert {name for name in named if name not in flat} == set()

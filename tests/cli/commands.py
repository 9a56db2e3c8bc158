"""The command line, run in this process as a shell would run it."""

import sys

import pytest

from onstream.cli.app import run

JOB = """
from torch import nn

from onstream import Files, Id, Job, Label, Number, Torch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rest = nn.LazyLinear(1)

    def forward(self, x):
        return x.stack().sum((1, 2)) + self.rest(x.numbers()).squeeze(1)


job = Job(
    Files({source!r}),
    [Id("user", dim=1), Number("price"), Label("click")],
    Torch(Net),
    {directory!r},
    batch_size=64,
)
"""


def write_rows(path, rows=640):
    """Write clicks as CSV, of which every user either always or never clicks."""
    lines = [f"{row * 7 % 50},{row % 9},{row * 7 % 50 % 2}" for row in range(rows)]
    path.write_text("\n".join(["user,price,click", *lines]) + "\n")
    return path


def write_job(folder, text=JOB, **names):
    """Write a job file that learns from clicks beside it."""
    source = write_rows(folder / "clicks.csv")
    path = folder / "job.py"
    path.write_text(text.format(**{"source": str(source), "directory": str(folder / "model")} | names))
    return path


class Command:
    """Runs commands: what each printed and its exit code."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments):
        self._monkeypatch.setattr(sys, "argv", ["onstream", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run()
        said = self._capsys.readouterr()
        return ended.value.code, said.out, said.err

    def fine(self, *arguments):
        """What a command that ends well printed."""
        code, out, err = self(*arguments)
        assert (code, err) == (0, ""), (out, err)
        return out

    def refused(self, *arguments, code=2):
        """What a command that is refused said in one line."""
        ended, out, err = self(*arguments)
        assert ended == code, (out, err)
        assert "Traceback" not in out + err
        assert err.startswith("onstream: ")
        assert err.count("\n") == 1
        return err

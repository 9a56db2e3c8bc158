import pytest

from tests.cli.commands import Command


@pytest.fixture
def onstream(monkeypatch, capsys):
    return Command(monkeypatch, capsys)

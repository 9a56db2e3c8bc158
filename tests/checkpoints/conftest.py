from pathlib import Path

import pytest

from onstream.checkpoints import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)

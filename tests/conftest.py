import os
import sys

# As the command does, before PyTorch is loaded: the tests share the processors with processes they start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
from hypothesis import settings

# How long an example takes says nothing on a machine that does other work too.
settings.register_profile("onstream", deadline=None, max_examples=20)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("onstream")


@pytest.fixture(autouse=True)
def threads_of_torch():
    """A command that is run within the tests may set the threads of its process; the next test has its own again."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)

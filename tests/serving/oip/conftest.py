"""One server of each wire for the tests of a file, over one model; each test leaves the model as it was."""

from collections.abc import Iterator

import pytest

from .linear import FakeModel
from .servers import Address, rest_server, rpc_server


@pytest.fixture(scope="module")
def served() -> Iterator[FakeModel]:
    model = FakeModel()
    yield model
    model.close()


@pytest.fixture
def model(served: FakeModel) -> Iterator[FakeModel]:
    """Return the served model; what a test sets is set back."""
    served.timeouts.clear()
    served.batches.clear()
    served.pending.clear()
    served.begun.clear()
    served.cancelled.clear()
    yield served
    served.loaded, served.reason, served.broken = (2, 1), None, None
    served.deaf = False
    served.open.set()


@pytest.fixture(scope="module")
def rest(served: FakeModel) -> Iterator[Address]:
    with rest_server({"ads": served}) as address:
        yield address


@pytest.fixture(scope="module")
def rpc(served: FakeModel) -> Iterator[Address]:
    with rpc_server({"ads": served}) as address:
        yield address

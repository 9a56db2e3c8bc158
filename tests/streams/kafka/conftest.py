import itertools
from collections.abc import Iterator

import pytest

from tests.streams.kafka.brokers import Broker, tansu

_numbers = itertools.count()


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """A broker process, shared by all tests of a run."""
    with tansu() as (broker, _):
        yield broker


@pytest.fixture
def topic(broker: Broker) -> str:
    """A topic of its own for a test, with two partitions."""
    return broker.create(f"topic-{next(_numbers)}", 2)

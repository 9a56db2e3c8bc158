import pytest

from tests.serving import clicks


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A model directory with versions 1 and 2, tagged "old" and "new"; not to be changed."""
    folder = tmp_path_factory.mktemp("clicks")
    clicks.train(folder)
    directory = clicks.train(folder, more_rows=640)
    log = clicks.log_of(directory)
    assert log.versions() == [1, 2]
    log.tag("old", 1)
    log.tag("new", 2)
    return directory

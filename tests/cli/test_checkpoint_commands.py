"""Looking at and tending the checkpoints of a model directory."""

import re
import shutil

import pytest

from onstream import load_job
from onstream.checkpoints import CheckpointLog, LocalStore
from tests.cli.commands import write_job
from tests.jobs.stored import differences, model
from tests.jobs.watch import EVERY_BATCH_S, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A job file, its source, and a model directory of a run that was stopped halfway."""
    folder = tmp_path_factory.mktemp("trained")
    often = {"checkpoint_every_s": 1e-6, "report_every_s": EVERY_BATCH_S, "keep": 8}
    # Enough reports for at least as many versions as are kept, however long each takes to be written.
    write_job(folder)
    run(
        load_job(folder / "job.py").replace(often),
        until=lambda progress: progress.version == 3 or progress.examples > 300,
    )
    return folder


@pytest.fixture
def directory(folder, tmp_path):
    """A copy of the model directory."""
    return shutil.copytree(folder / "model", tmp_path / "model")


def log(directory):
    return CheckpointLog(LocalStore(directory))


def test_list_shows_versions_oldest_first_with_their_tags(onstream, directory):
    onstream.fine("checkpoints", "tag", directory, "production", "1")
    onstream.fine("checkpoints", "tag", directory, "trial", "1")
    out = onstream.fine("checkpoints", "list", directory)
    title, *lines = out.splitlines()
    assert title.split() == ["version", "examples", "rows", "written", "size", "tags"]
    assert [int(line.split()[0]) for line in lines] == log(directory).versions()
    assert lines[0].split()[-2:] == ["production", "trial"]
    newest = log(directory).newest()
    assert lines[-1].split()[:2] == [str(newest.version), str(newest.facts["examples"])]


def test_list_shows_a_damaged_version_as_such(onstream, directory):
    newest = log(directory).versions()[-1]
    [manifest] = (directory / "manifests").glob(f"*{newest}*")
    manifest.write_bytes(manifest.read_bytes()[:-5])
    out = onstream.fine("checkpoints", "list", directory)
    assert re.search(rf"{newest} +damaged", out)


def test_show_prints_what_a_version_holds(onstream, directory):
    newest = log(directory).newest()
    out = onstream.fine("checkpoints", "show", directory)
    assert f"version {newest.version}, grown from {newest.parent}" in out
    assert f"'clicks.csv': {newest.positions['clicks.csv']}" in out
    assert "table d1-adagrad: rows of 1 float and 1 of their optimizer, 16 partitions\n" in out
    assert "Shape" not in out
    for name in ("learner", "meter", "trainer", "random", "letters", "rejects", "features", "tables"):
        assert f"state {name}: states/" in out
    assert "version 1, the first\n" in onstream.fine("checkpoints", "show", directory, "1")


def test_a_tag_points_to_a_version_and_can_be_moved_and_taken_away(onstream, directory):
    assert onstream.fine("checkpoints", "tag", directory, "production", "1") == "production is version 1\n"
    assert log(directory).tags() == {"production": 1}
    newest = log(directory).versions()[-1]
    onstream.fine("checkpoints", "tag", directory, "production")
    assert log(directory).tags() == {"production": newest}
    assert f"version {newest}," in onstream.fine("checkpoints", "show", directory, "production")
    onstream.fine("checkpoints", "tag", directory, "production", "--remove")
    assert log(directory).tags() == {}


def test_verify_of_a_whole_directory_says_so(onstream, directory):
    assert onstream.fine("checkpoints", "verify", directory) == "all versions are whole\n"
    assert onstream.fine("checkpoints", "verify", directory, "1") == "version 1 is whole\n"


def test_verify_names_a_damaged_file_and_exits_with_1(onstream, directory):
    newest = log(directory).newest()
    file = directory / newest.states["learner"].name
    data = bytearray(file.read_bytes())
    data[-1] ^= 0xFF
    file.write_bytes(data)
    code, out, err = onstream("checkpoints", "verify", directory)
    assert (code, err) == (1, "")
    assert file.name in out
    assert "whole" not in out.splitlines()[-1]
    assert onstream("checkpoints", "verify", directory, str(newest.version))[0] == 1
    assert onstream("checkpoints", "verify", directory, "1")[0] == 0


def test_compact_keeps_the_content(onstream, directory):
    before, versions = model(directory), log(directory).versions()
    chains = log(directory).newest().tables
    assert any(len(chain.segments) > 1 for chain in chains.values())
    out = onstream.fine("checkpoints", "compact", directory)
    assert re.fullmatch(rf"version {versions[-1] + 1}: 1 table merged, .* in all\n", out)
    assert all(len(chain.segments) == 1 for chain in log(directory).newest().tables.values())
    assert differences(before, model(directory)) == []
    assert onstream.fine("checkpoints", "compact", directory) == "there is nothing to merge\n"


def test_rollback_makes_an_older_version_the_newest_and_training_goes_on_from_it(
    onstream, folder, directory, tmp_path
):
    job = folder / "job.py"
    onstream.fine("train", job, "--set", f"directory={tmp_path / 'whole'}")
    first, versions = log(directory).read(1), log(directory).versions()
    out = onstream.fine("checkpoints", "rollback", directory, "1")
    assert out == f"version {versions[-1] + 1} is version 1 again; training goes on from it\n"
    assert log(directory).newest().positions == first.positions
    out = onstream.fine("train", job, "--set", f"directory={directory}")
    assert f"going on from checkpoint {versions[-1] + 1}, after {first.facts['examples']} examples" in out
    assert differences(model(tmp_path / "whole"), model(directory)) == []


@pytest.mark.parametrize("command", ["rollback", "compact"])
def test_a_command_keeps_as_many_versions_as_the_job_does(onstream, directory, command):
    with CheckpointLog(LocalStore(directory), keep=8) as writing:
        writing.restore()
        for _ in range(8):
            writing.recommit()
        before = writing.versions()
    onstream.fine("checkpoints", command, directory, *([str(before[0])] if command == "rollback" else []))
    assert log(directory).versions() == [*before[1:], before[-1] + 1]


@pytest.mark.parametrize("command", ["list", "show", "verify", "compact"])
def test_a_directory_that_is_not_there_is_refused_and_not_made(onstream, tmp_path, command):
    said = onstream.refused("checkpoints", command, tmp_path / "nothing")
    assert said == f"onstream: there is no model directory '{tmp_path / 'nothing'}'\n"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("command", ["list", "show", "verify", "compact"])
def test_a_directory_without_checkpoints_is_refused(onstream, tmp_path, command):
    said = onstream.refused("checkpoints", command, tmp_path)
    assert said == f"onstream: '{tmp_path}' holds no checkpoints\n"


def test_an_unknown_version_or_tag_is_refused_with_those_there_are(onstream, directory):
    for command in (["show"], ["verify"], ["rollback"], ["tag", "x"]):
        name, *rest = command
        said = onstream.refused("checkpoints", name, directory, *rest, "99", code=1)
        assert "there is no version 99; versions are [1, " in said
    assert "there is no tag 'beta'; tags are {}" in onstream.refused(
        "checkpoints", "show", directory, "beta", code=1
    )

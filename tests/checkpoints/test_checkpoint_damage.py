"""Flip, cut, empty or remove any file of a checkpoint: it is named, and the version before is used."""

import shutil
from pathlib import Path

import pytest
from checkpointed import files, load, row, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.errors import DamagedError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    with CheckpointLog(LocalStore(root)) as log:
        log.commit(snapshot(1, {1: row(1), 2: row(2)}))
        log.commit(snapshot(2, {2: row(20)}, deleted=[1]))
        log.tag("production", 2)
    return root


@settings(max_examples=200)
@given(data=st.data())
def test_any_changed_file_is_named_and_the_version_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    root = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(whole, root)
    name = data.draw(st.sampled_from(files(root)))
    content = (root / name).read_bytes()
    match data.draw(st.sampled_from(["flip", "cut", "grow", "remove"])):
        case "flip":
            changed = bytearray(content)
            for at in data.draw(st.sets(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
                changed[at] ^= data.draw(st.integers(1, 255))
            (root / name).write_bytes(changed)
        case "cut":
            (root / name).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        case "grow":
            (root / name).write_bytes(content + data.draw(st.binary(min_size=1, max_size=20)))
        case "remove":
            (root / name).unlink()

    said: list[str] = []
    log = CheckpointLog(LocalStore(root), report=said.append)
    if name.startswith("tags/"):
        if (root / name).exists():
            with pytest.raises(DamagedError, match=name):
                log.newest("production")
        else:
            assert log.newest("production") is None
        assert load(log, log.newest(verify=True)) == {2: row(20)}
        return

    hurt = [v for v in (1, 2) if name in _names(whole, v)]
    for version in hurt:
        if (root / f"manifests/{version:020d}.json").exists():
            problems = log.verify(version)
            assert len(problems) == 1
            assert name in problems[0]
    if 2 in hurt:
        with pytest.raises(DamagedError, match=name):
            log.restore("production")
    expected = max({1, 2} - set(hurt), default=None)
    manifest = log.newest(verify=True)
    assert (manifest.version if manifest else None) == expected
    if manifest:
        assert load(log, manifest) == [{1: row(1), 2: row(2)}, {2: row(20)}][manifest.version - 1]
    log.close()


def _names(root: Path, version: int) -> set[str]:
    manifest = CheckpointLog(LocalStore(root)).read(version)
    return {f"manifests/{version:020d}.json", *(f.name for f in manifest.files())}

"""The format is as docs/checkpoint-format.md says."""

import json
import re
from pathlib import Path

import pytest
import xxhash
from checkpointed import row, snapshot

from onstream.checkpoints import CheckpointLog, LocalStore

DOCUMENT = Path(__file__).parents[2] / "docs/checkpoint-format.md"


def test_the_example_opens_a_table_with_pyarrow_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointLog(LocalStore(tmp_path / "checkpoints")) as log:
        log.commit(snapshot(1, {1: row(1), 2: row(2), 3: row(3)}))
        log.commit(snapshot(2, {2: row(20)}, deleted=[1]))
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert "onstream" not in example
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["rows"] == {2: [20.0, 21.0], 3: [3.0, 4.0]}


def test_manifests_and_tags_carry_the_checksum_of_their_bytes(tmp_path: Path) -> None:
    with CheckpointLog(LocalStore(tmp_path), clock=lambda: 60.5) as log:
        log.commit(snapshot(1, {1: row(1)}))
        log.commit(snapshot(2, {1: row(2)}))
        log.publish("production", 1)
        log.publish("production", 2)
    for name in ("manifests/00000000000000000001.json", "tags/production"):
        data = (tmp_path / name).read_bytes()
        assert data[:13] == b'{"checksum":"'
        assert data[13:45].decode() == xxhash.xxh3_128_hexdigest(data[57:-2])
        assert data[45:57] == b'","content":'
        assert data[-2:] == b"}\n"
        assert json.loads(data)["content"] == json.loads(data[57:-2])
    assert json.loads(data)["content"] == {
        "tag": "production",
        "version": 2,
        "since": 60.5,
        "held": False,
        "before": [[1, 60.5]],
    }


def test_files_are_named_as_documented(tmp_path: Path) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log:
        log.commit(snapshot(1, {1: row(1)}))
        log.tag("production", 1)
    names = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    patterns = [
        r"\.tags\.lock",
        r"\.writer\.lock",
        r"manifests/0{19}1\.json",
        r"segments/0{19}1-user-[0-9a-f]{8}\.arrow",
        r"states/0{19}1-learner-[0-9a-f]{8}\.safetensors",
        r"tags/production",
    ]
    assert len(names) == len(patterns)
    for name, pattern in zip(names, patterns, strict=True):
        assert re.fullmatch(pattern, name)

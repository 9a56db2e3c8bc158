"""The format is as docs/checkpoint-format.md says."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import xxhash
from checkpointed import row, snapshot

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.core import hash_value, salt

DOCUMENT = Path(__file__).parents[2] / "docs/checkpoint-format.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def test_the_example_opens_a_table_with_pyarrow_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CheckpointLog(LocalStore(tmp_path / "models/ctr")) as log:
        for taken in (
            snapshot(1, {1: row(1), 2: row(2), 3: row(3)}),
            snapshot(2, {2: row(20)}, deleted=[1]),
        ):
            [(_, rows)] = taken.tables.items()
            facts = {"d16-adagrad": {"features": ["user"]}}
            log.commit(dataclasses.replace(taken, tables={"d16-adagrad": rows}, table_facts=facts))
    example, _ = blocks()
    assert "onstream" not in example
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["rows"] == {2: [20.0, 21.0], 3: [3.0, 4.0]}


def test_the_examples_find_the_rows_of_ids_in_the_model_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (["init", "ctr.py", "--template", "deepfm"], ["train", "ctr.py"]):
        subprocess.run([sys.executable, "-m", "onstream", *arguments], check=True, capture_output=True)
    names: dict[str, object] = {}
    for example in blocks():
        exec(example, names)
    tables, num_rows, *found = capsys.readouterr().out.splitlines()
    assert tables == "{'d16-adagrad': ['user', 'ad', 'site']}"
    assert int(num_rows.split()[0]) > 200
    assert [len(json.loads(vector)) for vector in found] == [16, 16]


@pytest.mark.parametrize(
    "name", ["", "a", "ad", "user", "item_id", "a name of 16 b.", "of_17_characters_", "ü" * 40]
)
def test_keys_are_made_as_documented(name: str) -> None:
    salted = hashed(name.encode(), 0)
    assert salt(name) == salted
    assert hash_value(f"u-{name}", salted) == hashed(f"u-{name}".encode(), salted)
    for value in (0, 7, -1, 2**63 - 1):
        assert hash_value(value, salted) == hash_value(str(value), salted) == mixed((value + salted) & WORD)
    assert hash_value("007", salted) == hashed(b"007", salted)
    assert hash_value(None, salted) == mixed(mixed(salted) ^ 0x6E756C6C6E756C6C)


WORD = 2**64 - 1


def mixed(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & WORD
    return x ^ (x >> 31)


def folded(a: int, b: int) -> int:
    return (a * b >> 64) ^ (a * b & WORD)


def hashed(text: bytes, seed: int) -> int:
    first, second = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
    state, left = mixed(seed ^ first), text
    while len(left) > 16:
        state = folded(little(left[:8]) ^ first, little(left[8:16]) ^ state)
        left = left[16:]
    if len(left) >= 4:
        size = 8 if len(left) >= 8 else 4
        a, b = little(left[:size]), little(left[-size:])
    else:
        a, b = (left[0] + (left[len(left) // 2] << 8) + (left[-1] << 16) if left else 0), 0
    return mixed(folded(a ^ second, b ^ state) ^ (len(text) * second & WORD))


def little(part: bytes) -> int:
    return int.from_bytes(part, "little")


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

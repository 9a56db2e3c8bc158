import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import snapshot

from onstream.checkpoints import Chain, CheckpointLog, LocalStore, SegmentFile, Snapshot, TableShape
from onstream.checkpoints.files import read_sealed, seal
from onstream.contracts import State
from onstream.errors import CheckpointError, DamagedError

NAME = "manifests/00000000000000000001.json"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    with CheckpointLog(store) as log:
        log.commit(snapshot(7, {1: (1, 2, (3.0, 4.0), (5.0,))}, table_facts={"user": {"dim": 2}}))
    return store


def test_a_manifest_is_json_that_names_its_files(store: LocalStore) -> None:
    content = json.loads((store.root / NAME).read_bytes())["content"]
    (segment,) = content["tables"]["user"].pop("segments")
    state = content["states"].pop("learner")
    assert {segment["name"], state["name"]} == {*store.names("segments/"), *store.names("states/")}
    assert content == {
        "format": 1,
        "version": 1,
        "parent": None,
        "tables": {"user": {"dim": 2, "width": 1, "partitions": 4, "facts": {"dim": 2}}},
        "states": {},
        "positions": {"clicks": 7},
        "facts": {"examples": 7},
    }


SEGMENT = ("tables", "user", "segments", 0)

WRONG: list[tuple[tuple[str | int, ...], Any]] = [
    (("version",), 0),
    (("version",), 2),
    (("version",), "1"),
    (("version",), True),
    (("parent",), 0),
    (("parent",), "none"),
    (("tables",), []),
    (("tables", "user"), None),
    (("tables", "user", "dim"), -1),
    (("tables", "user", "width"), 1.0),
    (("tables", "user", "partitions"), 0),
    (("tables", "user", "facts"), []),
    (("tables", "user", "segments"), {}),
    (("tables", "user", "surprise"), 1),
    ((*SEGMENT, "name"), "../../etc/passwd"),
    ((*SEGMENT, "name"), "/etc/passwd"),
    ((*SEGMENT, "name"), "segments/..\\x"),
    ((*SEGMENT, "name"), "segments/a\0b"),
    ((*SEGMENT, "name"), ".tmp/x"),
    ((*SEGMENT, "name"), ""),
    ((*SEGMENT, "name"), 5),
    ((*SEGMENT, "size_bytes"), -1),
    ((*SEGMENT, "checksum"), "0" * 31),
    ((*SEGMENT, "checksum"), "G" * 32),
    ((*SEGMENT, "rows"), None),
    ((*SEGMENT, "deleted"), "0"),
    ((*SEGMENT, "merged"), ["../x"]),
    ((*SEGMENT, "merged"), "x"),
    (("states", "learner"), []),
    (("states", "learner", "name"), "a/../b"),
    (("positions",), {"clicks": -1}),
    (("positions",), {"clicks": 1.5}),
    (("positions",), {"clicks": None}),
    (("facts",), None),
    (("surprise",), 1),
]


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_manifest_with_a_wrong_value_is_damage_that_names_the_file(
    store: LocalStore, place: tuple[str | int, ...], value: Any
) -> None:
    content = copy.deepcopy(read_sealed(store, NAME))
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    store.write(NAME, [seal(content)])
    with pytest.raises(DamagedError, match=NAME):
        CheckpointLog(store).read(1)


@pytest.mark.parametrize("place", [("positions",), ("tables", "user", "facts"), (*SEGMENT, "checksum")])
def test_a_manifest_without_a_value_is_damage(store: LocalStore, place: tuple[str | int, ...]) -> None:
    content = copy.deepcopy(read_sealed(store, NAME))
    target = content
    for key in place[:-1]:
        target = target[key]
    del target[place[-1]]
    store.write(NAME, [seal(content)])
    with pytest.raises(DamagedError, match=NAME):
        CheckpointLog(store).read(1)


@pytest.mark.parametrize("content", [[], 5, None, "format", {}])
def test_a_manifest_that_is_no_manifest_is_refused(store: LocalStore, content: Any) -> None:
    store.write(NAME, [seal(content)])
    with pytest.raises(CheckpointError, match=NAME):
        CheckpointLog(store).read(1)


def test_a_newer_format_is_said_and_never_passed_over_or_removed(store: LocalStore) -> None:
    newer = "manifests/00000000000000000002.json"
    store.write(newer, [seal({"format": 2, "anything": 1})])
    with CheckpointLog(store) as log:
        for use in (lambda: log.read(2), log.newest, log.restore, lambda: log.restore(2), log.sweep):
            with pytest.raises(CheckpointError, match="newer onstream") as caught:
                use()
            assert not isinstance(caught.value, DamagedError)
    assert newer in store.names("manifests/")


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b" ", lambda d: b"", lambda d: b"{}"])
def test_a_manifest_whose_bytes_changed_is_damage(store: LocalStore, change: Any) -> None:
    store.write(NAME, [change((store.root / NAME).read_bytes())])
    with pytest.raises(DamagedError, match="does not match its own checksum"):
        CheckpointLog(store).read(1)


def test_a_manifest_under_another_number_is_damage(store: LocalStore) -> None:
    store.write("manifests/00000000000000000009.json", [(store.root / NAME).read_bytes()])
    with pytest.raises(DamagedError, match="holds version 1"):
        CheckpointLog(store).read(9)


def test_facts_become_plain_json(tmp_path: Path) -> None:
    facts = {
        "auc": float("nan"),
        "loss": np.float32(0.5),
        "seen": np.int64(3),
        "shape": (1, 2),
        "ok": np.True_,
    }
    with CheckpointLog(LocalStore(tmp_path)) as log:
        manifest = log.commit(Snapshot(facts=facts, positions={"p": np.int64(4)}))
        assert manifest.facts == {"auc": None, "loss": 0.5, "seen": 3, "shape": [1, 2], "ok": True}
        assert log.read(1) == manifest


@pytest.mark.parametrize(
    ("snapshot", "message"),
    [
        (Snapshot(facts={"a": {"b": object()}}), r"facts\['a'\]\['b'\]"),
        (Snapshot(facts={"a": {1: 2}}), "JSON keys are strings, got 1"),
        (Snapshot(facts={"a": "\ud800"}), "plain JSON"),
        (Snapshot(positions={"p": -1}), "positions"),
        (Snapshot(positions={"p": 1.5}), "positions"),
        (Snapshot(states={"s": State(facts={"a": object()})}), "state 's'"),
        (Snapshot(states={"s": State({"a": np.array(["text"])})}), "state 's'"),
        (Snapshot(states={"s": State({"__metadata__": np.zeros(1)})}), "__metadata__"),
    ],
)
def test_what_could_not_be_read_back_is_not_committed(
    tmp_path: Path, snapshot: Snapshot, message: str
) -> None:
    with CheckpointLog(LocalStore(tmp_path)) as log:
        with pytest.raises(CheckpointError, match=message):
            log.commit(snapshot)
        assert log.versions() == []
        assert log.store.names("states/") == []


def chain(*segments: str) -> Chain:
    """Return a chain of segments, each given as its name, or as "name=a+b" when merged from a and b."""
    files = []
    for segment in segments:
        name, _, merged = segment.partition("=")
        files.append(SegmentFile(name, 1, "0" * 32, 1, 0, tuple(merged.split("+")) if merged else ()))
    return Chain(TableShape("user", 1, 1, 4), {}, tuple(files))


@pytest.mark.parametrize(
    ("old", "new", "added"),
    [
        ([], ["b", "d1"], ["b", "d1"]),
        (["b"], ["b"], []),
        (["b"], ["b", "d1", "d2"], ["d1", "d2"]),
        (["b", "d1", "d2"], ["b", "m=d1+d2", "d3"], ["d3"]),
        (["b", "d1", "d2"], ["m=b+d1+d2", "d3"], ["d3"]),
        (["b", "d1"], ["b", "m=d1+d2", "d3"], ["m", "d3"]),
        (["b"], ["b", "m=d1+d2"], ["m"]),
    ],
)
def test_a_chain_knows_what_an_older_one_lacks(old: list[str], new: list[str], added: list[str]) -> None:
    assert [s.name for s in chain(*new).after(chain(*old))] == added


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["b", "d1", "d2"], ["b", "d1"]),
        (["b", "d1", "d2"], ["b", "d1", "e1"]),
        (["b", "d1", "d2"], ["b", "m=d1+e1"]),
        (["b", "d1"], ["m=b+d1+d2"]),
        (["b"], ["e"]),
        (["b"], []),
    ],
)
def test_a_chain_that_lacks_rows_of_an_older_one_must_be_loaded_anew(old: list[str], new: list[str]) -> None:
    assert chain(*new).after(chain(*old)) is None

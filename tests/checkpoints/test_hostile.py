"""Whatever lies in a model directory, reading it gives what is there or a CheckpointError, and nothing else.

Damage that checksums find is the easier part. Here whoever wrote the files made the checksums fit too.
"""

import contextlib
import json
import os
import resource
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from checkpointed import row, snapshot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.checkpoints.files import digest
from onstream.errors import CheckpointError, DamagedError

MANIFEST = "manifests/00000000000000000002.json"
MOST_MEMORY_BYTES = 512 << 20
fuzz = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    with CheckpointLog(LocalStore(root)) as log:
        log.commit(snapshot(1, {1: row(1), 2: row(2)}))
        log.commit(snapshot(2, {2: row(20), 3: row(30)}, deleted=[1]))
        log.publish("production", 1)
        log.publish("production", 2)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "copy")


def copied(whole: Path, root: Path) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    return shutil.copytree(whole, root)


def read_all(root: Path) -> list[CheckpointError]:
    """Read all there is by every reading call; return the refusals. Any other error is raised."""
    refusals: list[CheckpointError] = []
    log = CheckpointLog(LocalStore(root), report=lambda _: None)

    @contextlib.contextmanager
    def refused() -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            assert len(str(error)) < 20_000
            refusals.append(error)

    for call in (log.tags, log.tag_details, log.newest, log.resolve, log.verify):
        with refused():
            call()
    for arguments in ({"tag": "production"}, {"verify": True}):
        with refused():
            log.newest(**arguments)
    for version in log.versions():
        with refused():
            manifest = log.read(version)
            for verify in (True, False):
                for table in manifest.tables:
                    with refused():
                        touch(log.rows(manifest, table, verify=verify))
                    with refused():
                        touch(log.rows(manifest, table, verify=verify, columns=["weights"]))
            for state in manifest.states:
                for prefix in ("", "w", "_"):
                    with refused():
                        log.states(manifest, state, prefix=prefix)
                with refused():
                    found = log.states(manifest, state)
                    assert isinstance(found.facts, dict)
                    assert all(array.tobytes() is not None for array in found.arrays.values())
    return refusals


def touch(deltas: Any) -> None:
    """Read every byte, so that an array that reaches out of its file would be noticed."""
    for delta in deltas:
        rows = len(delta.keys)
        for array in (delta.seen, delta.count, delta.weights, delta.state):
            assert len(array) == rows
            array.sum()
        assert int(delta.bounds[-1]) == rows
        delta.keys.sum()
        delta.deleted.sum()


def sealed(body: bytes) -> bytes:
    return b'{"checksum":"' + digest(body).encode() + b'","content":' + body + b"}\n"


def content(root: Path, name: str = MANIFEST) -> Any:
    return json.loads((root / name).read_bytes())["content"]


def put_manifest(root: Path, value: Any) -> None:
    (root / MANIFEST).write_bytes(sealed(json.dumps(value).encode()))


def put_file(root: Path, entry: dict[str, Any], data: bytes, manifest: dict[str, Any]) -> None:
    """Write other bytes under a file's name, with size and checksum that fit."""
    (root / entry["name"]).write_bytes(data)
    entry["size_bytes"], entry["checksum"] = len(data), digest(data)
    put_manifest(root, manifest)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a JSON value with another one at a path."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


def mutated(data: st.DataObject, before: bytes) -> bytes:
    """Draw bytes near to those before: flipped, cut, or with parts doubled or replaced."""
    after = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(after) - 1, 0)))
        match data.draw(st.sampled_from(["flip", "cut", "number", "insert", "repeat"])):
            case "flip" if after:
                after[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del after[at:]
            case "number":
                number = data.draw(
                    st.sampled_from([0, 1, -1, 1 << 31, (1 << 31) - 1, 1 << 40, (1 << 63) - 1])
                )
                after[at : at + 8] = struct.pack("<q", number)
            case "insert":
                after[at:at] = data.draw(st.binary(max_size=16))
            case "repeat":
                after[at:at] = after[max(at - 64, 0) : at]
    return bytes(after)


# A name, sizes beyond any machine, and all that JSON can be.
values = (
    st.sampled_from(
        [
            *(
                None,
                True,
                0,
                1,
                -1,
                0.5,
                1 << 31,
                1 << 62,
                1 << 80,
                float("nan"),
                float("inf"),
                "",
                "x",
                [],
                {},
            ),
            *(
                "../x",
                "/etc/passwd",
                "segments/../../x",
                "a/\0",
                "a\\b",
                "\ud800",
                "x" * 5000,
                "states",
                ".tmp/x",
            ),
            *([None], [[]], {"x": 1}, {"name": "x"}, "0" * 32),
        ]
    )
    | st.integers(-5, 1 << 70)
    | st.text(max_size=8)
)


def test_the_directory_reads_as_it_is(root: Path) -> None:
    assert read_all(root) == []


@fuzz
@given(data=st.data())
def test_manifests_and_tags_with_any_value_replaced_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    root = copied(whole, tmp_path_factory.getbasetemp() / "values")
    name = data.draw(st.sampled_from([MANIFEST, "tags/production"]))
    found = content(root, name)
    for _ in range(data.draw(st.integers(1, 3))):
        found = changed(found, data.draw(st.sampled_from(list(places(found)))), data.draw(values))
    (root / name).write_bytes(sealed(json.dumps(found).encode()))
    read_all(root)


@fuzz
@given(data=st.data())
def test_any_bytes_are_read_or_refused_also_under_a_checksum_that_fits(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    root = copied(whole, tmp_path_factory.getbasetemp() / "bytes")
    manifest = content(root)
    [*segments] = manifest["tables"]["user"]["segments"]
    entry = data.draw(st.sampled_from([*segments, *manifest["states"].values(), None]))
    if entry is None:
        name = data.draw(st.sampled_from([MANIFEST, "tags/production"]))
        body = (root / name).read_bytes()[57:-2]
        (root / name).write_bytes(sealed(mutated(data, body)))
    else:
        put_file(root, entry, mutated(data, (root / entry["name"]).read_bytes()), manifest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_all(root)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY_BYTES


@fuzz
@given(data=st.data())
def test_states_with_any_header_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: Path, data: st.DataObject
) -> None:
    root = copied(whole, tmp_path_factory.getbasetemp() / "states")
    manifest = content(root)
    [entry] = manifest["states"].values()
    raw = (root / entry["name"]).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    for _ in range(data.draw(st.integers(1, 3))):
        new = data.draw(values | st.sampled_from(["BF16", "F64", "[1]", "null", "{", [0, 1 << 62], [4, 0]]))
        header = changed(header, data.draw(st.sampled_from(list(places(header)))), new)
    text = json.dumps(header).encode()
    size = data.draw(st.sampled_from([len(text), 0, len(text) - 1, 1 << 62, (1 << 64) - 1]))
    put_file(root, entry, struct.pack("<Q", size) + text + raw[8 + size :], manifest)
    refusals = read_all(root)
    assert all(isinstance(error, DamagedError) for error in refusals)


@pytest.mark.parametrize(
    "name",
    ["../outside", "/etc/passwd", "states/../../outside", "states/link", "folder/outside", "states/loop"],
)
def test_a_name_that_leads_out_of_the_directory_is_never_opened(root: Path, name: str) -> None:
    (root.parent / "outside").write_bytes(b"secret")
    (root / "states/link").symlink_to(root.parent / "outside")
    (root / "states/loop").symlink_to("loop")
    (root / "folder").symlink_to(root.parent)
    manifest = content(root)
    manifest["states"]["learner"] |= {"name": name, "size_bytes": 6, "checksum": digest(b"secret")}
    put_manifest(root, manifest)
    log = CheckpointLog(LocalStore(root), report=lambda _: None)
    with pytest.raises(CheckpointError):
        log.states(log.read(2), "learner")
    assert read_all(root)


def test_a_tag_that_is_a_link_is_no_tag_of_this_directory(root: Path, whole: Path) -> None:
    (root / "tags/evil").symlink_to(whole / "tags/production")
    assert CheckpointLog(LocalStore(root)).tags() == {"production": 2}


@pytest.mark.parametrize("name", [MANIFEST, "tags/production", "state", "segment"])
def test_a_file_that_would_be_waited_for_is_refused(root: Path, name: str) -> None:
    manifest = content(root)
    names = {
        "state": manifest["states"]["learner"]["name"],
        "segment": manifest["tables"]["user"]["segments"][0]["name"],
    }
    path = root / names.get(name, name)
    path.unlink()
    os.mkfifo(path)
    assert read_all(root)


@pytest.mark.parametrize("name", [MANIFEST, "tags/production"])
def test_a_manifest_or_tag_of_a_terabyte_is_not_read(root: Path, name: str) -> None:
    with (root / name).open("r+b") as file:
        file.truncate(1 << 40)
    assert any("is no manifest or tag" in str(error) for error in read_all(root))


@pytest.mark.parametrize("depth", [900, 5_000, 1_000_000])
@pytest.mark.parametrize("place", ["facts", "tables", "tag", "state header", "state facts"])
def test_deep_json_is_read_or_refused(root: Path, place: str, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    manifest = content(root)
    entry = manifest["states"]["learner"]
    match place:
        case "facts" | "tables":
            body = json.dumps(manifest | {place: "HERE"}).encode().replace(b'"HERE"', b'{"x":' + deep + b"}")
            (root / MANIFEST).write_bytes(sealed(body))
        case "tag":
            (root / "tags/production").write_bytes(sealed(deep))
        case "state header":
            put_file(root, entry, struct.pack("<Q", len(deep)) + deep, manifest)
        case "state facts":
            arrays = {"w": np.zeros(3, np.float32)}
            facts = {"onstream.facts": '{"x":' + deep.decode() + "}"}
            put_file(root, entry, safetensors.numpy.save(arrays, facts), manifest)
    read_all(root)


@pytest.mark.parametrize("facts", ["[]", "1", "null", '"x"', "", "{", "[NaN]"])
def test_facts_of_a_state_that_are_no_object_are_refused(root: Path, facts: str) -> None:
    manifest = content(root)
    data = safetensors.numpy.save({"w": np.zeros(3, np.float32)}, {"onstream.facts": facts})
    put_file(root, manifest["states"]["learner"], data, manifest)
    log = CheckpointLog(LocalStore(root))
    with pytest.raises(DamagedError, match="cannot be read as a state"):
        log.states(log.read(2), "learner")


def test_arrays_of_a_state_that_lie_over_each_other_are_refused_before_they_are_copied(root: Path) -> None:
    manifest = content(root)
    block = {"dtype": "U8", "shape": [1 << 20], "data_offsets": [0, 1 << 20]}
    header = {"__metadata__": {"onstream.facts": "{}"}} | {f"w/{i}": block for i in range(100)}
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + bytes(1 << 20)
    put_file(root, manifest["states"]["learner"], data, manifest)
    log = CheckpointLog(LocalStore(root))
    with pytest.raises(DamagedError, match="array 'w/1' lies from 0 to 1048576"):
        log.states(log.read(2), "learner", prefix="w/")
    with pytest.raises(DamagedError, match="cannot be read as a state"):
        log.states(log.read(2), "learner")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", 1 << 31),
        ("dim", 1 << 80),
        ("width", 1 << 62),
        ("partitions", 1 << 40),
        ("dim", 3),
        ("width", 0),
    ],
)
def test_a_table_of_another_shape_than_its_segments_is_refused(root: Path, key: str, value: int) -> None:
    manifest = content(root)
    manifest["tables"]["user"][key] = value
    put_manifest(root, manifest)
    log = CheckpointLog(LocalStore(root))
    with pytest.raises(DamagedError):
        list(log.rows(log.read(2), "user"))


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_a_compressed_segment_is_refused_before_it_is_unpacked(root: Path, codec: str) -> None:
    manifest = content(root)
    entry = manifest["tables"]["user"]["segments"][1]
    reader = pa.ipc.open_file(pa.py_buffer((root / entry["name"]).read_bytes()))
    rows = 20_000_000
    sink = pa.BufferOutputStream()
    zeros = pa.record_batch(
        [
            pa.FixedSizeListArray.from_arrays(
                pa.array(np.zeros(rows * f.type.list_size, np.float32)), type=f.type
            )
            if pa.types.is_fixed_size_list(f.type)
            else pa.array(np.zeros(rows, f.type.to_pandas_dtype()), f.type)
            for f in reader.schema
        ],
        schema=reader.schema,
    )
    with pa.ipc.new_file(sink, reader.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        for _ in range(reader.num_record_batches):
            writer.write_batch(zeros.slice(0, rows if codec == "zstd" else 1000))
    del zeros
    put_file(root, entry, sink.getvalue().to_pybytes(), manifest)
    log = CheckpointLog(LocalStore(root))
    allocated = pa.total_allocated_bytes()
    with pytest.raises(DamagedError, match="compressed"):
        list(log.rows(log.read(2), "user"))
    assert pa.total_allocated_bytes() <= allocated + (1 << 20)

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpointed import files

from onstream.checkpoints import LocalStore
from onstream.contracts import Store
from onstream.errors import CheckpointError, DamagedError


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "log")


def test_a_file_reads_back_as_its_parts_joined(store: Store) -> None:
    assert store.write("a/b", [b"one", memoryview(b"two"), b""]) == 6
    with store.open("a/b") as file:
        assert file.read() == b"onetwo"


def test_an_empty_file_reads_back_empty(store: LocalStore) -> None:
    store.write("empty", [])
    with store.open("empty") as file:
        assert (file.size(), file.read()) == (0, b"")


def test_a_file_whose_name_may_not_last_is_told_to_be_there(store: LocalStore, monkeypatch: Any) -> None:
    store.write("a", [b"old"])
    whole = os.fsync

    def fsync(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        whole(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(CheckpointError, match=r"'a' is written in .* it is there now") as told:
            store.write("a", [b"new"])
    assert "no file was changed" not in str(told.value)
    with store.open("a") as file:
        assert file.read() == b"new"
    assert store.sweep() == 0


def test_names_are_those_that_begin_with_the_prefix(store: LocalStore) -> None:
    for name in ("a/b", "a/c/d", "ab", "b"):
        store.write(name, [b"x"])
    assert store.names("") == ["a/b", "a/c/d", "ab", "b"]
    assert store.names("a") == ["a/b", "a/c/d", "ab"]
    assert store.names("a/c") == ["a/c/d"]
    assert store.names("none/") == []


def test_reading_makes_no_folder(store: LocalStore) -> None:
    assert store.names("") == []
    with pytest.raises(FileNotFoundError):
        store.open("a")
    store.remove("a")
    assert not store.root.exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "a/",
        "./a",
        ".tmp/x",
        "a\\b",
        "a\0b",
        ".writer.lock",
    ],
)
def test_a_name_that_could_leave_the_store_is_refused(store: LocalStore, name: str) -> None:
    for use in (lambda: store.write(name, [b"x"]), lambda: store.open(name), lambda: store.remove(name)):
        with pytest.raises(CheckpointError, match="not allowed"):
            use()
    assert not store.root.exists()


def test_a_link_that_leads_out_is_refused_and_not_listed(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    store.write("a/b", [b"x"])
    (store.root / "a/link").symlink_to(tmp_path / "secret")
    (store.root / "out").symlink_to(tmp_path)
    for name in ("a/link", "out/secret"):
        for use in (
            lambda n=name: store.write(n, [b"x"]),
            lambda n=name: store.open(n),
            lambda n=name: store.remove(n),
        ):
            with pytest.raises(CheckpointError, match="leads out"):
                use()
    assert store.names("") == ["a/b"]
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_store_behind_a_link_is_a_store(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    LocalStore(tmp_path / "link").write("a", [b"x"])
    assert LocalStore(tmp_path / "real").names("") == ["a"]


def test_a_write_that_fails_leaves_what_was_there(store: LocalStore) -> None:
    store.write("a", [b"before"])

    def parts():
        yield b"half"
        raise DamagedError("an input is damaged")

    with pytest.raises(DamagedError, match="an input"):
        store.write("a", parts())
    assert (store.root / "a").read_bytes() == b"before"
    assert files(store.root) == ["a"]


def test_what_the_disk_refuses_is_a_checkpoint_error_with_the_reason(store: LocalStore) -> None:
    store.write("a", [b"x"])
    for name, reason in (("a/b", "Not a directory|File exists"), ("n" * 300, "File name too long")):
        with pytest.raises(CheckpointError, match=reason):
            store.write(name, [b"x"])
    assert files(store.root) == ["a"]


def test_a_folder_that_cannot_be_listed_does_not_look_empty(store: LocalStore) -> None:
    store.write("manifests", [b"a file where a folder should be"])
    with pytest.raises(CheckpointError, match="cannot list"):
        store.names("manifests/")


def test_a_file_that_is_open_outlives_its_removal(store: LocalStore) -> None:
    store.write("a", [b"still here"])
    data = store.open("a").read_buffer()
    store.write("a", [b"new"])
    store.remove("a")
    assert data.to_pybytes() == b"still here"


def test_sweep_removes_what_unfinished_writes_left(store: LocalStore) -> None:
    store.write("a", [b"x"])
    (store.root / ".tmp/left").write_bytes(b"half")
    assert store.sweep() == 1
    assert files(store.root) == ["a"]


def test_a_lock_is_held_by_one_until_it_is_let_go(store: LocalStore) -> None:
    with store.lock("writer"):
        with pytest.raises(CheckpointError, match=r"another job \(process \d+\)"):
            store.lock("writer")
        store.lock("tags").close()
    store.lock("writer").close()


FULL = """
import resource, signal, sys
from onstream.checkpoints import LocalStore
from onstream.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    LocalStore(sys.argv[1]).write("a", [b"x" * 60_000] * 2)
except CheckpointError as error:
    print(error)
"""


def test_a_file_that_grows_too_large_leaves_nothing(store: LocalStore) -> None:
    store.write("a", [b"before"])
    out = subprocess.run(
        [sys.executable, "-c", FULL, str(store.root)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "cannot write 'a'" in out.stdout
    assert "File too large" in out.stdout
    assert files(store.root) == ["a"]
    assert (store.root / "a").read_bytes() == b"before"

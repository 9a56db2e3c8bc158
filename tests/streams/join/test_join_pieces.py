"""Rows that wait on disk: any number of pieces, without a file open for each."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from onstream.streams.join.capture import stored_pieces
from onstream.streams.join.pieces import Memory, Pieces

MANY = """
import resource, sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from onstream.streams.join.pieces import Memory, Pieces

resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
# Memory for nothing: each batch is a piece of its own, on disk.
pieces = Pieces(Memory(1, Path(sys.argv[1])))
for n in range(200):
    pieces.append(pa.RecordBatch.from_pydict({"n": [2 * n, 2 * n + 1]}), latest=n)
assert len(pieces.pieces) == 200 and all(piece.spilled for piece in pieces.pieces)
found = [row["n"] for batch, _ in pieces.take(np.arange(400)) for row in batch.to_pylist()]
assert found == list(range(400))
assert not list(Path(sys.argv[1]).iterdir())
"""


def test_there_may_be_more_pieces_on_disk_than_files_may_be_open(tmp_path):
    ran = subprocess.run([sys.executable, "-c", MANY, str(tmp_path)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_pages_that_were_read_are_given_back_and_read_again(tmp_path):
    pieces = Pieces(Memory(1, tmp_path))
    pieces.append(pa.RecordBatch.from_pydict({"n": np.arange(100_000)}), latest=0)
    for _ in range(2):
        [(batch, _)] = pieces.take(np.arange(100_000))
        assert np.asarray(batch.column("n")).sum() == sum(range(100_000))
        assert mapped_kb(tmp_path) >= 700
        pieces.pieces[0].rest()
        assert mapped_kb(tmp_path) == 0


def test_pieces_that_become_one_while_others_are_loaded_take_no_number_of_those(tmp_path):
    # On disk each is a piece of its own; in memory there is room for ten of the twelve.
    stored = Pieces(Memory(1, tmp_path))
    for n in range(12):
        stored.append(pa.RecordBatch.from_pydict({"n": np.arange(50) + 50 * n}), latest=n)
    names = {f"rows-{piece.serial:08d}": piece.state() for piece in stored.pieces}
    facts = {"pieces": {"rows": [[piece.serial, piece.latest] for piece in stored.pieces]}}
    loaded = Pieces(Memory(8_000, tmp_path))
    assert sum(batch.num_rows for batch in stored_pieces(names, "rows", loaded, facts)) == 600
    assert len(loaded.pieces) < 12
    assert len({piece.serial for piece in loaded.pieces}) == len(loaded.pieces)
    found = [row["n"] for batch, _ in loaded.take(np.arange(600)) for row in batch.to_pylist()]
    assert found == list(range(600))


def mapped_kb(folder):
    """Return how much of the mapped files of a folder is in the memory of this process."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(_resident_kb(lines) for line in lines if str(folder) in line)


def _resident_kb(lines):
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))

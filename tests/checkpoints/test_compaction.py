import math
import threading
from itertools import count
from pathlib import Path

import pytest
from checkpointed import PARTITIONS, Row, apply, row, to_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from onstream.checkpoints import LocalStore, SegmentFile, TableShape, due, merge, read_segment, write_segment
from onstream.checkpoints.compact import StoppedError
from onstream.errors import DamagedError

SHAPE = TableShape("user", 2, 1, PARTITIONS)

few_keys = st.integers(0, 30)
deltas = st.tuples(
    st.dictionaries(few_keys, st.integers(0, 1000), max_size=12), st.sets(few_keys, max_size=6)
)


def written(store: LocalStore, parts: list[tuple[dict[int, int], set[int]]]) -> list[SegmentFile]:
    return [
        write_segment(
            store, f"s{i}", to_delta({k: row(v) for k, v in rows.items()}, gone - set(rows)), table="user"
        )
        for i, (rows, gone) in enumerate(parts)
    ]


@settings(max_examples=40)
@given(base=deltas, later=st.lists(deltas, max_size=5), below=st.dictionaries(few_keys, st.integers(0, 9)))
def test_a_merged_segment_says_what_its_segments_said(
    tmp_path_factory: pytest.TempPathFactory,
    base: tuple[dict[int, int], set[int]],
    later: list[tuple[dict[int, int], set[int]]],
    below: dict[int, int],
) -> None:
    store = LocalStore(tmp_path_factory.getbasetemp() / "merge")
    entries = written(store, [base, *later])

    def after(start: dict[int, Row], files: list[SegmentFile]) -> dict[int, Row]:
        return apply(dict(start), (part for file in files for part in read_segment(store, file, SHAPE)))

    rows_below = {k: row(v) for k, v in below.items()}
    delta = merge(store, "delta", entries, SHAPE, drop_deletions=False)
    assert after(rows_below, [delta]) == after(rows_below, entries)

    whole = merge(store, "whole", entries, SHAPE, drop_deletions=True)
    assert after({}, [whole]) == after({}, entries)
    assert (whole.rows, whole.deleted) == (len(after({}, entries)), 0)
    assert whole.merged == delta.merged == tuple(entry.name for entry in entries)


def test_damage_is_not_merged(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    entries = written(store, [({1: 1}, set()), ({2: 2}, set())])
    data = bytearray((tmp_path / "s1").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "s1").write_bytes(data)
    with pytest.raises(DamagedError, match="'s1'"):
        merge(store, "merged", entries, SHAPE, drop_deletions=True)
    assert store.names("") == ["s0", "s1"]


def test_a_merge_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    entries = written(store, [({1: 1}, set()), ({2: 2}, set())])
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        merge(store, "merged", entries, SHAPE, drop_deletions=True, stop=stop)
    assert store.names("") == ["s0", "s1"]


# ----------------------------------------------------------------------------- when to merge what


def segments(*sizes: int) -> list[SegmentFile]:
    return [SegmentFile(f"s{i}", size, "0" * 32, size, 0) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((), None),
        ((10,), None),
        ((10, *[10] * 7), None),
        ((10, *[10] * 8), slice(0, 9)),
        ((16, *[1] * 8), slice(0, 9)),
        ((17, *[1] * 8), slice(1, 9)),
        ((10_000, 100, *[1] * 7), slice(2, 9)),
        ((10_000, 7, *[1] * 7), slice(1, 9)),
        ((10_000, 256, 128, 64, 32, 16, 8, 4, 2), None),
        ((10_000, 512, 256, 128, 64, 32, 16, 4, 4), slice(7, 9)),
    ],
)
def test_what_is_due(sizes: tuple[int, ...], expected: slice | None) -> None:
    assert due(segments(*sizes)) == expected


@given(
    base=st.integers(1, 10**6),
    commits=st.lists(st.integers(1, 1000), min_size=1, max_size=300),
    overlap=st.floats(0, 1),
)
def test_chains_stay_short_and_bytes_are_rewritten_few_times(
    base: int, commits: list[int], overlap: float
) -> None:
    """A merge of sizes a, b, ... gives between max(a, b, ...) (all keys equal) and their sum (none)."""
    chain, names = segments(base), count()
    rewritten = 0
    for size in commits:
        chain.append(SegmentFile(f"c{next(names)}", size, "0" * 32, size, 0))
        while (span := due(chain)) is not None:
            sizes = [segment.size_bytes for segment in chain[span]]
            merged = round(overlap * max(sizes) + (1 - overlap) * sum(sizes))
            rewritten += merged
            chain[span] = [SegmentFile(f"m{next(names)}", merged, "0" * 32, merged, 0)]
        # Each delta but the last few is larger than all after it together.
        assert len(chain) <= 1 + max(7, 2 + math.log2(sum(commits)))
    levels = math.log2(max(2, sum(commits) / min(commits)))
    # 3: the base is merged when at least half of it is new. 1: a fresh delta's first merge.
    assert rewritten <= sum(commits) * (3 + 1 + levels)

"""Dead letters: each reject is a line, exactly once after a crash."""

import json

import pytest

from onstream.contracts import Reject
from onstream.errors import StreamError
from onstream.streams import DeadLetters


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_reject_is_a_line_with_its_place(tmp_path):
    with DeadLetters(tmp_path / "new" / "dead.jsonl") as letters:
        letters.write([Reject("a.csv", 7, "not valid JSON", "x\n\ud800" + "y" * 2_000)])
    [line] = lines(letters.path)
    assert line == {
        "partition": "a.csv",
        "position": 7,
        "reason": "not valid JSON",
        "value": "x\n\ud800" + "y" * 997,
    }
    assert letters.counts == {"not valid JSON": 1}


def test_lines_after_a_checkpoint_are_taken_back(tmp_path):
    path = tmp_path / "dead.jsonl"
    with DeadLetters(path) as letters:
        letters.write([Reject("p", 1, "bad")])
        state, size = letters.state(), letters.size_bytes
        letters.write([Reject("p", 2, "bad"), Reject("p", 3, "worse")])
    with DeadLetters(path) as letters:
        letters.load(state)
        assert letters.size_bytes == size
        assert letters.counts == {"bad": 1}
        letters.write([Reject("p", 2, "bad")])
    assert [line["position"] for line in lines(path)] == [1, 2]


def test_a_line_that_a_crash_tore_is_removed(tmp_path):
    path = tmp_path / "dead.jsonl"
    path.write_bytes(b'{"reason": "bad"}\n{"reas' + b"o" * 100_000)
    with DeadLetters(path) as letters:
        letters.write([Reject("p", 2, "next")])
    assert [line["reason"] for line in lines(path)] == ["bad", "next"]
    path.write_bytes(b'{"reas')
    with DeadLetters(path) as letters:
        assert letters.size_bytes == 0


def test_lines_that_were_removed_stay_removed(tmp_path):
    path = tmp_path / "dead.jsonl"
    with DeadLetters(path) as letters:
        letters.write([Reject("p", 1, "removed later")])
        state = letters.state()
    path.unlink()
    with DeadLetters(path) as letters:
        letters.load(state)
        letters.write([Reject("p", 2, "next")])
    assert [line["reason"] for line in lines(path)] == ["next"]


def test_a_full_disk_is_said_in_words():
    with DeadLetters("/dev/full") as letters, pytest.raises(StreamError, match="dead letters '/dev/full'"):
        letters.write([Reject("p", 1, "bad")])


@pytest.mark.parametrize("value", [1, 150, 400])
def test_the_file_stops_at_its_limit_says_so_and_counts_on(tmp_path, value):
    path = tmp_path / "dead.jsonl"
    with DeadLetters(path, max_bytes=1_000) as letters:
        for i in range(50):
            letters.write([Reject("p", i, "bad", "x" * value), Reject("p", i, "short")])
    assert path.stat().st_size <= 1_000
    assert ["only counted" in line["reason"] for line in lines(path)] == [False] * (len(lines(path)) - 1) + [
        True
    ]
    assert letters.counts == {"bad": 50, "short": 50}
    with DeadLetters(path, max_bytes=1_000) as letters:
        before = letters.size_bytes
        letters.write([Reject("p", 0, "bad")])
        assert letters.size_bytes == before
        letters.truncate(0)
        letters.write([Reject("p", 0, "bad")])
    assert [line["reason"] for line in lines(path)] == ["bad"]

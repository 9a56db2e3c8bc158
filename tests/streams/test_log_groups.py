"""Readers that share a log: each row's result is written once, whatever dies and whoever comes late."""

import signal
import subprocess
import sys
import threading

import pyarrow as pa
import pytest

from onstream.errors import JobError
from onstream.streams import Log
from onstream.streams.log import LogGroup


class FakeClock:
    def __init__(self):
        self.now = 1000.0

    def time(self):
        return self.now


def numbers(first, end):
    return pa.record_batch({"n": pa.array(range(first, end), pa.int64())})


def stored(log):
    read = log.replay(follow=False).read({}, max_rows=10_000, stop=threading.Event())
    return [n for chunk in read for n in chunk.batch["n"].to_pylist()]


@pytest.fixture
def logs(tmp_path):
    with Log(tmp_path / "source.db") as source, Log(tmp_path / "target.db") as target:
        yield source, target


def test_rows_are_shared_and_none_is_claimed_twice(logs):
    source, target = logs
    source.append(numbers(0, 25))
    group, other = (LogGroup(source, target, "g", start="earliest") for _ in range(2))
    claims = [group.claim(10), other.claim(10), group.claim(10)]
    assert [(claim.first, claim.end) for claim in claims] == [(0, 10), (10, 20), (20, 25)]
    assert other.claim(10) is None
    assert group.behind() == 25
    for claim in claims:
        assert group.write(claim, [numbers(claim.first, claim.end)])
    assert sorted(stored(target)) == list(range(25))
    assert group.behind() == 0


def test_a_new_group_begins_where_it_is_told_and_an_old_one_where_it_was(logs):
    source, target = logs
    source.append(numbers(0, 10))
    assert LogGroup(source, target, "late", start="latest").claim(5) is None
    assert LogGroup(source, target, "at", start=7).claim(5).first == 7
    assert LogGroup(source, target, "at", start="earliest").claim(5) is None
    source.append(numbers(10, 12))
    claim = LogGroup(source, target, "late", start="earliest").claim(5)
    assert (claim.first, claim.end) == (10, 12)


def test_what_is_claimed_and_not_written_goes_to_another_once_the_lease_has_passed(logs):
    source, target = logs
    source.append(numbers(0, 10))
    clock = FakeClock()
    group = LogGroup(source, target, "g", start="earliest", lease_s=30, clock=clock)
    slow = group.claim(10)
    clock.now += 29
    assert group.claim(10) is None
    clock.now += 2
    heir = group.claim(10)
    assert (heir.first, heir.end) == (0, 10)
    assert group.write(heir, [numbers(0, 10)]) is not None
    assert group.write(slow, [numbers(100, 110)]) is None
    assert stored(target) == list(range(10))


def test_the_late_reader_cannot_write_before_the_heir_either(logs):
    source, target = logs
    source.append(numbers(0, 10))
    clock = FakeClock()
    group = LogGroup(source, target, "g", start="earliest", lease_s=30, clock=clock)
    slow = group.claim(10)
    clock.now += 31
    heir = group.claim(10)
    assert group.write(slow, [numbers(100, 110)]) is None
    assert group.write(heir, [numbers(0, 10)]) is not None


def test_what_is_given_back_is_taken_at_once(logs):
    source, target = logs
    source.append(numbers(0, 10))
    group = LogGroup(source, target, "g", start="earliest")
    group.give_back(group.claim(10))
    assert group.claim(3).end == 10


@pytest.mark.parametrize("wrong", [{"start": "newest"}, {"start": -1}, {"lease_s": 0}])
def test_what_cannot_be_is_told(logs, wrong):
    with pytest.raises(JobError, match=next(iter(wrong))):
        LogGroup(*logs, "g", **wrong)


READER = """
import sys, pyarrow as pa
from onstream.streams import Log
from onstream.streams.log import LogGroup
group = LogGroup(Log(sys.argv[1]), Log(sys.argv[2]), "g", start="earliest", lease_s=0.2)
while group.behind():
    claim = group.claim(7)
    if claim is not None:
        group.write(claim, [pa.record_batch({"n": pa.array(range(claim.first, claim.end), pa.int64())})])
        print(claim.end, flush=True)
"""


def test_no_row_is_lost_or_written_twice_when_readers_are_killed(tmp_path):
    with Log(tmp_path / "source.db") as source, Log(tmp_path / "target.db") as target:
        command = [sys.executable, "-c", READER, str(source.path), str(target.path)]
        for kills in range(3):
            source.append(numbers(source.end, source.end + 1000))
            with subprocess.Popen(command, stdout=subprocess.PIPE) as first:
                assert first.stdout.readline()
                with subprocess.Popen(command, stdout=subprocess.PIPE) as second:
                    for _ in range(10 * kills):
                        first.stdout.readline()
                    first.send_signal(signal.SIGKILL)
                    second.send_signal(signal.SIGKILL)
        subprocess.run(command, stdout=subprocess.PIPE, check=True)
        assert sorted(stored(target)) == list(range(3000))

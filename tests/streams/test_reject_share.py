"""The share of bad rows among recent ones."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onstream.contracts import Reject, State
from onstream.errors import BadInputError, JobError
from onstream.streams import RejectShare


def bad(count, reason="bad"):
    return [Reject("p", i, reason) for i in range(count)]


def test_a_share_above_the_limit_is_an_error_with_reasons_and_place():
    share = RejectShare(0.1, min_rows=100)
    share.update(90, bad(10))
    share.check()
    share.update(0, bad(3, "worse"))
    with pytest.raises(
        BadInputError, match=r"13 of the last 103 rows \(12.6%\).*10.0%: bad \(10\), worse \(3\); .*'x'"
    ):
        share.check("x")


def test_few_rows_are_not_judged():
    share = RejectShare(0.1, min_rows=100)
    share.update(0, bad(99))
    share.check()
    share.update(0, bad(1))
    with pytest.raises(BadInputError):
        share.check()


def test_old_rows_are_forgotten():
    share = RejectShare(0.1, window_rows=100, min_rows=1)
    share.update(0, bad(50))
    for _ in range(10):
        share.update(10, [])
    share.check()
    assert share.share == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30), st.integers(0, 30))
def test_the_share_is_that_of_the_newest_batches_and_survives_saving(batches, saved_at):
    share = RejectShare(0.5, window_rows=60)
    for i, (good, num_bad) in enumerate(batches):
        if i == saved_at:
            facts = json.loads(json.dumps(share.state().facts))
            share = RejectShare(0.5, window_rows=60)
            share.load(State(facts=facts))
        share.update(good, bad(num_bad))
    recent = []
    for good, num_bad in reversed([b for b in batches if sum(b)]):
        if sum(map(sum, recent)) >= 60:
            break
        recent.append((good, num_bad))
    total = sum(map(sum, recent))
    assert share.share == (sum(b for _, b in recent) / total if total else 0.0)


def test_a_limit_is_a_share():
    with pytest.raises(JobError, match="from 0 to 1"):
        RejectShare(1.5)

import json

import numpy as np
from encoded import encode, keys_of, rows
from hypothesis import given
from hypothesis import strategies as st

from onstream.contracts import State
from onstream.features import EventTime, Features, Id, Label, Number


def features(*more):
    return Features([Number("x", standardize=True), *more, EventTime("t"), Label("y")])


def stored(state: State) -> State:
    """A state as a checkpoint gives it back."""
    arrays = {name: np.frombuffer(array.tobytes(), array.dtype) for name, array in state.arrays.items()}
    return State(arrays, json.loads(json.dumps(state.facts)))


@given(st.lists(st.lists(st.floats(-100, 100), max_size=4), min_size=1, max_size=4), st.integers(0, 3))
def test_going_on_from_a_state_gives_bit_equal_batches(batches, cut):
    def chunk(values, at):
        return rows(x=np.array(values, float), t=np.full(len(values), at))

    straight, first = features(), features()
    state = first.state()
    for at, values in enumerate(batches[:cut]):
        state = encode(first, chunk(values, at)).state
        encode(straight, chunk(values, at))
    resumed = features()
    resumed.load(stored(state))
    for at, values in enumerate(batches[cut:]):
        one, other = encode(straight, chunk(values, at)), encode(resumed, chunk(values, at))
        assert one.numbers.tobytes() == other.numbers.tobytes()
        assert one.now == other.now
        assert one.state.facts == other.state.facts
        for name, array in one.state.arrays.items():
            assert array.tobytes() == other.state.arrays[name].tobytes()


def test_the_state_of_a_batch_is_not_changed_by_later_batches():
    made = features()
    state = encode(made, rows(x=[1.0, 2.0], t=[5, 6])).state
    before = {name: array.tolist() for name, array in state.arrays.items()}
    encode(made, rows(x=[100.0], t=[7]))
    assert {name: array.tolist() for name, array in state.arrays.items()} == before
    assert state.facts["now"] == 6


def test_predicting_does_not_change_the_state():
    made = features()
    encode(made, rows(x=[1.0, 2.0], t=[5, 6]))
    before = made.state()
    batch = encode(made, rows(x=[100.0], t=[70]), learn=False)
    assert batch.now == 70
    assert batch.state.facts == before.facts
    assert made.state().facts == before.facts
    assert made.state().arrays["means"].tolist() == before.arrays["means"].tolist()


def test_a_number_that_is_added_starts_fresh_and_the_others_go_on():
    old = features(Number("gone", standardize=True))
    encode(old, rows(x=[1.0, 3.0], gone=[5.0, 6.0], t=[1, 2]))
    new = Features(
        [Number("new", standardize=True), Number("x", standardize=True), EventTime("t"), Label("y")]
    )
    new.load(stored(old.state()))
    batch = encode(new, rows(new=[4.0], x=[4.0], t=[3]))
    # What has no scale yet shows its fill.
    assert batch.numbers.tolist() == [[0.0, 2.0]]


def test_moments_of_a_number_are_not_those_of_its_logarithm():
    old = features()
    encode(old, rows(x=[1.0, 3.0], t=[1, 2]))
    new = Features([Number("x", log=True, standardize=True), EventTime("t"), Label("y")])
    new.load(old.state())
    assert new.state().arrays["counts"].tolist() == [0.0]


def test_features_that_are_added_or_taken_away_leave_the_keys_of_the_others():
    before = Features([Id("a"), Id("b"), Label("y")])
    after = Features([Id("new"), Id("b"), Label("y")])
    row = rows(a=[1], b=[2], new=[3])
    old, new = encode(before, row), encode(after, row)
    assert keys_of(before, old, "b") == keys_of(after, new, "b")


def test_an_empty_state_is_a_fresh_start():
    made = features()
    encode(made, rows(x=[1.0], t=[5]))
    made.load(State())
    assert made.state().arrays["counts"].tolist() == [0.0]
    assert made.state().facts["now"] == 0


def test_a_time_far_in_the_future_is_a_reject_and_does_not_move_the_clock():
    made = features()
    for day in range(5):
        encode(made, rows(x=[1.0] * 4, t=[day * 86_400 + i for i in range(4)]))
    batch = encode(made, rows(x=[1.0] * 4, t=[400_000, 400_001, 4_000_000_000, 400_003]))
    assert [r.reason for r in batch.rejects] == ["column 't': far in the future"]
    assert (batch.num_rows, batch.now) == (3, 400_003)


def test_a_gap_of_the_whole_stream_is_no_fault():
    made = features()
    encode(made, rows(x=[1.0, 2.0], t=[5, 6]))
    batch = encode(made, rows(x=[1.0, 2.0], t=[10**9, 10**9 + 1]))
    assert (batch.num_rows, batch.now) == (2, 10**9 + 1)

"""Laws of states, and of what is exported."""

from __future__ import annotations

from onstream.checkpoints.states import state_bytes
from onstream.contracts import State
from onstream.learners.predictors import WEIGHTS, Predictor, open_predictor, weights_of
from onstream.testing.judging import check_predictions, expect_equal, told_of
from onstream.testing.subject import Skip, Subject, broken, differences, drawn, gap, stored

__all__ = [
    "a_replay_gives_the_same_bits",
    "a_state_stays_as_it_was_taken",
    "features_come_and_go",
    "going_on_from_a_state_gives_the_same_bits",
    "memory_is_bounded",
    "the_exported_predicts_the_same",
]


def a_replay_gives_the_same_bits(subject: Subject) -> None:
    """Two learners of one seed that learn the same batches are the same, to the bit."""
    one, other = (subject.born(subject.features()).grown() for _ in range(2))
    expect_equal(other.learner.state(), one.learner.state(), "the same state after the same batches")


def a_state_stays_as_it_was_taken(subject: Subject) -> None:
    """Learning on does not change a state that was taken: it is written while learning goes on."""
    life = subject.born(subject.features()).grown()
    taken = life.learner.state()
    before = stored(taken)
    life.grown(3, first=3)
    expect_equal(taken, before, "a state as it was when it was taken")


def going_on_from_a_state_gives_the_same_bits(subject: Subject) -> None:
    """A state from a checkpoint, loaded into a new learner, gives the same predictions and learning on."""
    for features in subject.every():
        first = subject.born(features).grown()
        expected = first.predict(drawn(16, 30))
        before = first.learner.state()
        # From here on `first` rests: learners may draw from generators of the whole process, which binding seeds.
        second = first.resumed(subject)
        expect_equal(second.learner.state(), before, "the state that was loaded")
        if told := gap(second.predict(drawn(16, 30)), expected):
            broken("the same predictions from the same state", told)
        second.grown(3, first=3)
        whole = subject.born(features).grown(6)
        expect_equal(second.learner.state(), whole.learner.state(), "the state of one that never stopped")
        if told := gap(second.predict(drawn(16, 30)), whole.predict(drawn(16, 30))):
            broken("the predictions of one that never stopped", told)


def features_come_and_go(subject: Subject) -> None:
    """The state of a learner with fewer features, or with more, can be gone on from."""
    fewer, more = subject.features(fewer=True), subject.features()
    for what, old, new in (("new", fewer, more), ("vanished", more, fewer)):
        life = subject.born(new)
        life.learner.load(stored(subject.born(old).grown().learner.state()))
        try:
            check_predictions(life.predict(drawn(8, 9)), new, 8)
            check_predictions(life.grown().predict(drawn(8, 9)), new, 8)
            stored(life.learner.state())
        except Exception as error:
            broken(f"to go on with {what} features", told_of(error))


def memory_is_bounded(subject: Subject) -> None:
    """The state does not grow with the number of batches, if their ids are the same."""
    life = subject.born(subject.features())
    sizes = []
    for rounds in (3, 12):
        for _ in range(rounds):
            life.grown(2)
        sizes.append(len(state_bytes("learner", life.learner.state())))
    # Counters may get another digit.
    if sizes[1] > sizes[0] + 64:
        broken("a state that does not grow with the number of batches", f"{sizes[1]} after {sizes[0]} bytes")


def the_exported_predicts_the_same(subject: Subject) -> None:
    """What `export` gives predicts as the learner does, with none of its code, at this state and at later ones."""
    for features in subject.every():
        life = subject.born(features).grown()
        opened: tuple[State, Predictor] | None = None
        for first in (3, 5):
            exported = life.learner.export()
            if exported is None:
                notes = " ".join(getattr(life.learner, "notes", ()))
                raise Skip(f"it exports nothing{': ' if notes else ''}{notes}")
            exported = stored(exported)
            if opened is None or differences(opened[0], exported):
                opened = exported, open_predictor(exported, features.layout)
            state = life.learner.state()
            kept = State({n: a for n, a in state.arrays.items() if n.startswith(WEIGHTS)}, state.facts)
            opened[1].load(weights_of(stored(kept)))
            for rows in (1, 2, 7, 33, 0):
                batch = life.encode(drawn(rows, 100 + rows))
                found = opened[1].predict(batch, life.rows_of(batch))
                expected = life.learner.predict(batch, life.rows_of(batch))
                if told := gap(found, expected, subject.promises.tolerance):
                    broken(f"the exported to predict {rows} rows as the learner does", told)
            life.grown(2, first=first)

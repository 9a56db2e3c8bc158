"""Laws of predicting."""

from __future__ import annotations

import numpy as np

from onstream.testing.judging import RANDOM, check_predictions, expect_equal, told_of
from onstream.testing.subject import Subject, broken, differences, drawn, gap, pieces, stored

__all__ = [
    "an_empty_batch_is_no_batch",
    "predicting_changes_nothing",
    "predictions_of_a_batch_are_those_of_its_parts",
    "predicts_before_any_learning",
    "unseen_ids_nulls_and_empty_lists_are_fine",
]


def predicts_before_any_learning(subject: Subject) -> None:
    """A fresh learner predicts: float32 for every label, of the shape and in the range of its task."""
    for features in subject.every():
        check_predictions(subject.born(features).predict(drawn(7, 1)), features, 7)


def predicting_changes_nothing(subject: Subject) -> None:
    """Predicting neither changes the state, nor later predictions, nor what is learned later."""
    life = subject.born(subject.features()).grown()
    before = stored(life.learner.state())
    first = life.predict(drawn(16, 50))
    for seed in range(51, 54):
        life.predict(drawn(5, seed))
    expect_equal(life.learner.state(), before, "the same state after predicting")
    if told := gap(life.predict(drawn(16, 50)), first):
        broken("the same predictions when asked again", told)
    looked = subject.born(subject.features())
    for seed in range(4):
        looked.learn(drawn(16, seed))
        looked.predict(drawn(9, 60 + seed))
    silent = subject.born(subject.features()).grown(4)
    expect_equal(looked.learner.state(), silent.learner.state(), "the same learning with predictions between")


def predictions_of_a_batch_are_those_of_its_parts(subject: Subject) -> None:
    """What is predicted of a row does not depend on the rows beside it."""
    rows = drawn(24, 70)
    for features in subject.every():
        life = subject.born(features).grown()
        whole = life.predict(rows)
        parts = [life.predict(part) for part in pieces(rows, 1, 2, 5, 9)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in whole}
        if told := gap(joined, whole, subject.promises.tolerance):
            broken("predictions of a batch to be those of its parts", told)


def unseen_ids_nulls_and_empty_lists_are_fine(subject: Subject) -> None:
    """Ids never seen, nulls and empty lists are predicted and learned from like any others."""
    life = subject.born(subject.features()).grown()
    strange = {
        "ids never seen": drawn(8, 1, ids=(10**9, 2 * 10**9)),
        "nulls": drawn(
            8, 2, user=None, item=None, place=None, tags=None, words=None, history=None, price=None
        ),
        "empty lists": drawn(8, 3, tags=[[]] * 8, words=[[]] * 8, history=[[]] * 8),
    }
    for what, rows in strange.items():
        try:
            check_predictions(life.predict(rows), life.features, 8)
            outcome = life.learn(rows)
            check_predictions(outcome.predictions, life.features, 8)
        except Exception as error:
            broken(f"{what} to be predicted and learned from", told_of(error))
        if outcome.dropped:
            broken(f"{what} to be learned from", "a dropped batch")


def an_empty_batch_is_no_batch(subject: Subject) -> None:
    """A batch without rows gives empty predictions, and learning from it changes nothing."""
    life = subject.born(subject.features()).grown()
    before = stored(life.learner.state())
    empty = drawn(0, 0)
    check_predictions(life.predict(empty), life.features, 0)
    check_predictions(life.learn(empty).predictions, life.features, 0)
    changed = differences(life.learner.state(), before, ignoring=RANDOM)
    if changed:
        broken("the same state after learning from a batch without rows", f"others: {changed}")

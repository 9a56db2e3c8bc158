"""The laws that every learner keeps. Each is a function of the learner under examination, named by what it says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from onstream.checkpoints.states import state_bytes
from onstream.contracts import Batch, Label, Outcome, Predictions, Rows, State
from onstream.features import Features
from onstream.learners.predictors import WEIGHTS, Predictor, open_predictor, weights_of
from onstream.testing.subject import Life, Skip, Subject, broken, differences, drawn, gap, pieces, stored

__all__ = ["LAWS", "Law"]

Law: TypeAlias = Callable[[Subject], None]

# Random states move on with every batch that was looked at, learned from or not.
_RANDOM = "random/"

# How often rows are learned from until something must have been learned.
_LESSONS = 40


# -------------------------------------------------------------------------------------------- predicting


def predicts_before_any_learning(subject: Subject) -> None:
    """A fresh learner predicts: float32 for every label, of the shape and in the range of its task."""
    for features in subject.every():
        _check_predictions(subject.born(features).predict(drawn(7, 1)), features, 7)


def predicting_changes_nothing(subject: Subject) -> None:
    """Predicting neither changes the state, nor later predictions, nor what is learned later."""
    life = subject.born(subject.features()).grown()
    before = stored(life.learner.state())
    first = life.predict(drawn(16, 50))
    for seed in range(51, 54):
        life.predict(drawn(5, seed))
    _expect_equal(life.learner.state(), before, "the same state after predicting")
    if told := gap(life.predict(drawn(16, 50)), first):
        broken("the same predictions when asked again", told)
    looked = subject.born(subject.features())
    for seed in range(4):
        looked.learn(drawn(16, seed))
        looked.predict(drawn(9, 60 + seed))
    silent = subject.born(subject.features()).grown(4)
    _expect_equal(
        looked.learner.state(), silent.learner.state(), "the same learning with predictions between"
    )


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
            _check_predictions(life.predict(rows), life.features, 8)
            outcome = life.learn(rows)
            _check_predictions(outcome.predictions, life.features, 8)
        except Exception as error:
            broken(f"{what} to be predicted and learned from", _told(error))
        if outcome.dropped:
            broken(f"{what} to be learned from", "a dropped batch")


def an_empty_batch_is_no_batch(subject: Subject) -> None:
    """A batch without rows gives empty predictions, and learning from it changes nothing."""
    life = subject.born(subject.features()).grown()
    before = stored(life.learner.state())
    empty = drawn(0, 0)
    _check_predictions(life.predict(empty), life.features, 0)
    _check_predictions(life.learn(empty).predictions, life.features, 0)
    changed = differences(life.learner.state(), before, ignoring=_RANDOM)
    if changed:
        broken("the same state after learning from a batch without rows", f"others: {changed}")


# --------------------------------------------------------------------------------------------- learning


def learning_answers_with_predictions_made_before(subject: Subject) -> None:
    """The predictions of `learn` are those that `predict` would have given just before.

    Before the batch, or, for a learner that says ``learns_by_row``, before each row.
    """
    for features in subject.every():
        life, twin = subject.born(features), subject.born(features)
        for seed in range(4):
            rows = drawn(16, seed)
            if getattr(life.learner, "learns_by_row", False):
                found = [(twin.predict(part), twin.learn(part))[0] for part in pieces(rows, 1)]
                before = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
            else:
                life.encode(rows)
                # The rows that learning will pull, so that both see the same.
                before = life.predict(rows)
            if told := gap(life.learn(rows).predictions, before, subject.promises.tolerance):
                broken("learn to answer with the predictions made before the update", told)


def learning_teaches(subject: Subject) -> None:
    """What is learned from again and again is predicted better than at first."""
    rows = drawn(32, 80)
    for features in subject.every():
        life = subject.born(features)
        first = _error(life.predict(rows), life.encode(rows))
        for _ in range(_LESSONS):
            life.learn(rows)
        last = _error(life.predict(rows), life.encode(rows))
        for name in first:
            if not last[name] < first[name]:
                broken(
                    f"a smaller error of {name!r} after learning the same rows {_LESSONS} times",
                    f"{last[name]:.4f} after {first[name]:.4f}",
                )


def learning_only_reads_what_it_is_given(subject: Subject) -> None:
    """Neither the batch nor the rows are written to: the tables and the meter use them afterwards."""
    life = subject.born(subject.features()).grown()
    batch = life.encode(drawn(16, 90))
    rows = life.rows_of(batch)
    before = copy.deepcopy((_arrays(batch), rows))
    life.learner.predict(batch, rows)
    life.learner.learn(batch, rows)
    after = (_arrays(batch), rows)
    for old, new in zip(before, after, strict=True):
        for name, array in old.items():
            if array.tobytes() != new[name].tobytes():
                broken("batch and rows as they were", f"changes of {name!r}")


def row_gradients_have_the_shapes_of_the_rows(subject: Subject) -> None:
    """Every table that gets gradients gets one for each pulled row: float32 (keys, dim), finite."""
    for features in subject.every():
        life = subject.born(features)
        for seed in range(3):
            batch = life.encode(drawn(16, seed))
            rows = life.rows_of(batch, learn=True)
            grads = life.learner.learn(batch, rows).row_grads
            if unknown := sorted(set(grads) - set(rows)):
                broken(f"gradients of the tables {sorted(rows)}", f"some of {unknown}")
            for name, grad in grads.items():
                if grad.shape != rows[name].shape or grad.dtype != np.float32:
                    expected = f"float32 {rows[name].shape} for the table {name!r}"
                    broken(expected, f"{grad.dtype} {grad.shape}")
                if not np.isfinite(grad).all():
                    broken(f"finite gradients of the table {name!r}", "others")


def row_gradients_point_uphill(subject: Subject) -> None:
    """The loss grows along the gradients of the rows, and falls against them."""
    for features in subject.every():
        life = subject.born(features)
        batch = life.encode(drawn(16, 5))
        rows = life.rows_of(batch, learn=True)
        grads = life.learner.learn(batch, rows).row_grads
        norm = float(np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in grads.values())))
        if norm == 0:
            raise Skip("it teaches no rows of tables")
        losses = []
        for step in (-0.03, 0.0, 0.03):
            moved = {name: array + (step / norm) * grads.get(name, 0.0) for name, array in rows.items()}
            losses.append(subject.born(features).learner.learn(batch, _float32(moved)).loss)
        if not losses[0] < losses[1] < losses[2]:
            broken("a loss that grows along the gradients of the rows", " -> ".join(map(str, losses)))


def rows_of_no_weight_teach_nothing(subject: Subject) -> None:
    """Rows with the weight 0 have no gradient, and whatever their labels are, the same is learned."""
    weight = np.where(np.arange(16) % 2 == 0, 0.0, 1.0)
    ends: list[State] = []
    for labels in ((0, -3.0, 0), (1, 5.0, 2)):
        life = subject.born(subject.features(weighted=True)).grown(1)
        for seed in range(1, 4):
            rows = drawn(16, seed, weight=weight)
            for name, value in zip(("binary", "real", "class"), labels, strict=True):
                values = rows[name].to_numpy().copy()
                values[weight == 0] = value
                rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
            outcome = life.learn(rows)
            _expect_no_gradient(life, outcome, weight == 0, "rows of no weight")
        ends.append(life.learner.state())
    _expect_equal(ends[1], ends[0], "the same learning whatever the labels of rows without weight are")


def missing_labels_teach_nothing(subject: Subject) -> None:
    """A row whose label is missing has no gradient, and the rest of its batch is learned from."""
    features = subject.features(tasks=subject.promises.tasks[:1], required=False)
    life = subject.born(features).grown(1)
    missing = np.arange(16) % 4 == 0
    for seed, gone in ((1, missing), (2, np.ones(16, np.bool_)), (3, missing)):
        rows = drawn(16, seed)
        for name in subject.promises.tasks:
            values = pa.array(
                [None if gone[i] else v for i, v in enumerate(rows[name].to_pylist())], rows[name].type
            )
            rows = rows.set_column(rows.schema.get_field_index(name), name, values)
        outcome = life.learn(rows)
        if outcome.dropped or not np.isfinite(outcome.loss):
            broken("a batch with missing labels to be learned from", f"the loss {outcome.loss}")
        _check_predictions(outcome.predictions, features, 16)
        _expect_no_gradient(life, outcome, gone, "rows without a label")
    _check_predictions(life.predict(drawn(8, 4)), features, 8)


def a_batch_that_is_not_finite_changes_nothing(subject: Subject) -> None:
    """Where loss or gradients are not finite the batch is dropped: the state stays, and rows get no gradients."""
    life = subject.born(subject.features()).grown()
    for poison in (np.nan, np.inf):
        for what in ("rows", "numbers", "tensors"):
            before = stored(life.learner.state())
            batch = life.encode(drawn(16, 6))
            rows = life.rows_of(batch, learn=True)
            named = {"rows": rows, "numbers": {"": batch.numbers}, "tensors": batch.tensors}[what]
            for array in named.values():
                array[len(array) // 2 :].fill(poison)
            outcome = life.learner.learn(batch, rows)
            place = f"{poison} in the {what}"
            if not outcome.dropped:
                # What is not looked at does no harm.
                if not np.isfinite(outcome.loss) or not _finite(outcome.row_grads):
                    broken(f"a batch with {place} to be dropped", f"the loss {outcome.loss}")
            elif outcome.row_grads:
                broken(f"no gradients of a batch dropped for {place}", sorted(outcome.row_grads))
            elif changed := differences(life.learner.state(), before, ignoring=_RANDOM):
                broken(f"the same state after a batch dropped for {place}", f"others: {changed}")
            _check_predictions(life.predict(drawn(8, 7)), life.features, 8)


def learning_in_parts_is_learning_the_whole(subject: Subject) -> None:
    """A batch teaches what its rows would one after the other, if the learner promises so."""
    if not subject.promises.by_parts:
        raise Skip("it does not promise it")
    rows = drawn(24, 8)
    whole, parts = subject.born(subject.features()), subject.born(subject.features())
    whole.learn(rows)
    for part in pieces(rows, 1, 2, 5):
        parts.learn(part)
    _expect_equal(parts.learner.state(), whole.learner.state(), "the same state after learning in parts")


# ------------------------------------------------------------------------------------------------ state


def a_replay_gives_the_same_bits(subject: Subject) -> None:
    """Two learners of one seed that learn the same batches are the same, to the bit."""
    one, other = (subject.born(subject.features()).grown() for _ in range(2))
    _expect_equal(other.learner.state(), one.learner.state(), "the same state after the same batches")


def a_state_stays_as_it_was_taken(subject: Subject) -> None:
    """Learning on does not change a state that was taken: it is written while learning goes on."""
    life = subject.born(subject.features()).grown()
    taken = life.learner.state()
    before = stored(taken)
    life.grown(3, first=3)
    _expect_equal(taken, before, "a state as it was when it was taken")


def going_on_from_a_state_gives_the_same_bits(subject: Subject) -> None:
    """A state from a checkpoint, loaded into a new learner, gives the same predictions and learning on."""
    for features in subject.every():
        first = subject.born(features).grown()
        expected = first.predict(drawn(16, 30))
        before = first.learner.state()
        # From here on `first` rests: learners may draw from generators of the whole process, which binding seeds.
        second = first.resumed(subject)
        _expect_equal(second.learner.state(), before, "the state that was loaded")
        if told := gap(second.predict(drawn(16, 30)), expected):
            broken("the same predictions from the same state", told)
        second.grown(3, first=3)
        whole = subject.born(features).grown(6)
        _expect_equal(second.learner.state(), whole.learner.state(), "the state of one that never stopped")
        if told := gap(second.predict(drawn(16, 30)), whole.predict(drawn(16, 30))):
            broken("the predictions of one that never stopped", told)


def features_come_and_go(subject: Subject) -> None:
    """The state of a learner with fewer features, or with more, can be gone on from."""
    fewer, more = subject.features(fewer=True), subject.features()
    for what, old, new in (("new", fewer, more), ("vanished", more, fewer)):
        life = subject.born(new)
        life.learner.load(stored(subject.born(old).grown().learner.state()))
        try:
            _check_predictions(life.predict(drawn(8, 9)), new, 8)
            _check_predictions(life.grown().predict(drawn(8, 9)), new, 8)
            stored(life.learner.state())
        except Exception as error:
            broken(f"to go on with {what} features", _told(error))


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


LAWS: tuple[Law, ...] = (
    predicts_before_any_learning,
    predicting_changes_nothing,
    predictions_of_a_batch_are_those_of_its_parts,
    unseen_ids_nulls_and_empty_lists_are_fine,
    an_empty_batch_is_no_batch,
    learning_answers_with_predictions_made_before,
    learning_teaches,
    learning_only_reads_what_it_is_given,
    row_gradients_have_the_shapes_of_the_rows,
    row_gradients_point_uphill,
    rows_of_no_weight_teach_nothing,
    missing_labels_teach_nothing,
    a_batch_that_is_not_finite_changes_nothing,
    learning_in_parts_is_learning_the_whole,
    a_replay_gives_the_same_bits,
    a_state_stays_as_it_was_taken,
    going_on_from_a_state_gives_the_same_bits,
    features_come_and_go,
    memory_is_bounded,
    the_exported_predicts_the_same,
)
"""Every law, in the order in which they are best read."""


# ----------------------------------------------------------------------------------------------- helpers


def _check_predictions(found: Predictions, features: Features, rows: int) -> None:
    labels = features.layout.labels
    if sorted(found) != sorted(label.name for label in labels):
        broken(f"predictions of {[label.name for label in labels]}", sorted(found))
    for label in labels:
        values = found[label.name]
        shape = (rows, label.classes) if label.task == "class" else (rows,)
        if values.shape != shape or values.dtype != np.float32:
            broken(f"float32 {shape} for {label.name!r}", f"{values.dtype} {values.shape}")
        if not np.isfinite(values).all():
            broken(f"finite predictions of {label.name!r}", values)
        if label.task != "real" and not _is_probability(label, values):
            broken(f"probabilities for {label.name!r}", values)


def _is_probability(label: Label, values: Rows) -> bool:
    inside = bool(((values >= 0) & (values <= 1)).all())
    return inside and (label.task != "class" or np.allclose(values.sum(1), 1, atol=1e-4))


def _error(predictions: Predictions, batch: Batch) -> dict[str, float]:
    """Return the mean squared error of each label: of a class, that of its probability."""
    found = {}
    for name, values in predictions.items():
        truth = batch.labels[name]
        if values.ndim == 2:
            values, truth = values[np.arange(len(values)), truth.astype(np.int64)], np.ones_like(truth)
        found[name] = float(np.square(values - truth).mean())
    return found


def _expect_equal(found: State, expected: State, what: str) -> None:
    if changed := differences(found, expected):
        broken(what, f"others: {changed}")


def _expect_no_gradient(life: Life, outcome: Outcome, rows: Any, what: str) -> None:
    """Raise if ids of any of these rows got a gradient."""
    for name, grad in outcome.row_grads.items():
        ids = len(life.features.layout.ids(name))
        block = grad[: len(rows) * ids].reshape(len(rows), ids, -1)
        if np.any(block[rows] != 0):
            broken(f"no gradients from {what}", f"some in the table {name!r}")


def _arrays(batch: Batch) -> dict[str, Any]:
    return {**batch.keys, **batch.offsets, "numbers": batch.numbers, **batch.tensors, **batch.labels}


def _float32(arrays: dict[str, Any]) -> dict[str, Rows]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _finite(arrays: dict[str, Rows]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

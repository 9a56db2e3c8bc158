"""Laws of learning."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa

from onstream.contracts import Batch, Predictions, Rows, State
from onstream.testing.judging import RANDOM, check_predictions, expect_equal, expect_no_gradient
from onstream.testing.subject import Skip, Subject, broken, differences, drawn, gap, pieces, stored

__all__ = [
    "a_batch_that_is_not_finite_changes_nothing",
    "learning_answers_with_predictions_made_before",
    "learning_in_parts_is_learning_the_whole",
    "learning_only_reads_what_it_is_given",
    "learning_teaches",
    "missing_labels_teach_nothing",
    "row_gradients_have_the_shapes_of_the_rows",
    "row_gradients_point_uphill",
    "rows_of_no_weight_teach_nothing",
]

# How often rows are learned from until something must have been learned.
_LESSONS = 40


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
            expect_no_gradient(life, outcome, weight == 0, "rows of no weight")
        ends.append(life.learner.state())
    expect_equal(ends[1], ends[0], "the same learning whatever the labels of rows without weight are")


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
        check_predictions(outcome.predictions, features, 16)
        expect_no_gradient(life, outcome, gone, "rows without a label")
    check_predictions(life.predict(drawn(8, 4)), features, 8)


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
            elif changed := differences(life.learner.state(), before, ignoring=RANDOM):
                broken(f"the same state after a batch dropped for {place}", f"others: {changed}")
            check_predictions(life.predict(drawn(8, 7)), life.features, 8)


def learning_in_parts_is_learning_the_whole(subject: Subject) -> None:
    """A batch teaches what its rows would one after the other, if the learner promises so."""
    if not subject.promises.by_parts:
        raise Skip("it does not promise it")
    rows = drawn(24, 8)
    whole, parts = subject.born(subject.features()), subject.born(subject.features())
    whole.learn(rows)
    for part in pieces(rows, 1, 2, 5):
        parts.learn(part)
    expect_equal(parts.learner.state(), whole.learner.state(), "the same state after learning in parts")


def _error(predictions: Predictions, batch: Batch) -> dict[str, float]:
    """Return the mean squared error of each label: of a class, that of its probability."""
    found = {}
    for name, values in predictions.items():
        truth = batch.labels[name]
        if values.ndim == 2:
            values, truth = values[np.arange(len(values)), truth.astype(np.int64)], np.ones_like(truth)
        found[name] = float(np.square(values - truth).mean())
    return found


def _arrays(batch: Batch) -> dict[str, Any]:
    return {**batch.keys, **batch.offsets, "numbers": batch.numbers, **batch.tensors, **batch.labels}


def _float32(arrays: dict[str, Any]) -> dict[str, Rows]:
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def _finite(arrays: dict[str, Rows]) -> bool:
    return all(bool(np.isfinite(array).all()) for array in arrays.values())

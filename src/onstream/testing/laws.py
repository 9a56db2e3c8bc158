"""The laws that every learner keeps. Each is a function of the learner under examination, named by what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from onstream.testing.laws_of_learning import (
    a_batch_that_is_not_finite_changes_nothing,
    learning_answers_with_predictions_made_before,
    learning_in_parts_is_learning_the_whole,
    learning_only_reads_what_it_is_given,
    learning_teaches,
    missing_labels_teach_nothing,
    row_gradients_have_the_shapes_of_the_rows,
    row_gradients_point_uphill,
    rows_of_no_weight_teach_nothing,
)
from onstream.testing.laws_of_predicting import (
    an_empty_batch_is_no_batch,
    predicting_changes_nothing,
    predictions_of_a_batch_are_those_of_its_parts,
    predicts_before_any_learning,
    unseen_ids_nulls_and_empty_lists_are_fine,
)
from onstream.testing.laws_of_states import (
    a_replay_gives_the_same_bits,
    a_state_stays_as_it_was_taken,
    features_come_and_go,
    going_on_from_a_state_gives_the_same_bits,
    memory_is_bounded,
    the_exported_predicts_the_same,
)
from onstream.testing.subject import Subject

__all__ = ["LAWS", "Law"]

Law: TypeAlias = Callable[[Subject], None]

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

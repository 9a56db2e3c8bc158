"""The laws of learners: the PyTorch learner keeps them, and one that breaks a law is found by that law."""

import itertools
import unittest
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from onstream import Torch
from onstream.contracts import Outcome, State
from onstream.testing import LAWS, LawError, Promises, check_learner, learner_laws
from tests.testing.networks import torch_learner

EXPORTING = ("the_exported_predicts_the_same",)
NAMES = [law.__name__ for law in LAWS]


def law_of(name, make, promises=None):
    return dict(learner_laws(make, promises or Promises()))[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_torch_learner_keeps_the_law(name):
    law_of(name, partial(torch_learner, servable=name in EXPORTING))()


# ----------------------------------------------------------------------------------- those that break a law


class Deaf(Torch):
    def predict(self, batch, rows):
        if self._modal is None:
            raise RuntimeError("learn first")
        return super().predict(batch, rows)


class Doubles(Torch):
    def predict(self, batch, rows):
        return {name: values.astype(np.float64) for name, values in super().predict(batch, rows).items()}


class Restless(Torch):
    """Moves with every prediction."""

    def predict(self, batch, rows):
        found = super().predict(batch, rows)
        self._nudge()
        return found

    def _nudge(self):
        with torch.no_grad():
            next(self._module.parameters()).add_(1e-3)


class Sociable(Torch):
    """What it says of a row depends on its neighbours."""

    def predict(self, batch, rows):
        found = super().predict(batch, rows)
        return {
            name: values if values.ndim == 2 else values * np.float32(0.5 + 0.5 / batch.num_rows)
            for name, values in found.items()
        }


class Closed(Torch):
    """Knows the ids that it has learned, and no others."""

    def learn(self, batch, rows):
        self._known = getattr(self, "_known", set()) | {key for keys in batch.keys.values() for key in keys}
        return super().learn(batch, rows)

    def predict(self, batch, rows):
        for keys in batch.keys.values():
            for key in keys:
                if key not in self._known:
                    raise KeyError(key)
        return super().predict(batch, rows)


class Busy(Restless):
    """Takes a step for batches without rows."""

    def learn(self, batch, rows):
        if batch.num_rows == 0:
            self._nudge()
        return super().learn(batch, rows)

    predict = Torch.predict


class Late(Torch):
    """Predicts after it has learned."""

    def learn(self, batch, rows):
        outcome = super().learn(batch, rows)
        return replace(outcome, predictions=self.predict(batch, rows))


class Contrary(Torch):
    """Learns the opposite."""

    def learn(self, batch, rows):
        other = {"binary": lambda y: 1 - y, "real": lambda y: -9 + 0 * y, "class": lambda y: (y + 1) % 3}
        labels = {name: other[name](values).astype(np.float32) for name, values in batch.labels.items()}
        return super().learn(replace(batch, labels=labels), rows)


class Scribbling(Torch):
    """Standardises what it is given where it lies."""

    def learn(self, batch, rows):
        batch.numbers[:] -= batch.numbers.mean(0)
        return super().learn(batch, rows)


class Grads(Torch):
    """Gives other gradients of rows."""

    def learn(self, batch, rows):
        outcome = super().learn(batch, rows)
        return replace(outcome, row_grads={k: self.other(g) for k, g in outcome.row_grads.items()})


class Summed(Grads):
    other = staticmethod(lambda grad: grad.sum(0))


class Uneven(Grads):
    other = staticmethod(lambda grad: grad.astype(np.float64))


class Downhill(Grads):
    other = staticmethod(lambda grad: -grad)


class Unweighted(Torch):
    def learn(self, batch, rows):
        return super().learn(replace(batch, weights=None), rows)


class Filling(Torch):
    """Takes a missing label for a 0."""

    def learn(self, batch, rows):
        labels = {name: np.nan_to_num(values) for name, values in batch.labels.items()}
        return super().learn(replace(batch, labels=labels), rows)


class Choking(Torch):
    """Fails where every label is missing."""

    def learn(self, batch, rows):
        if all(np.isnan(values).all() for values in batch.labels.values()):
            return Outcome(self.predict(batch, rows), float("nan"), {}, dropped=True)
        return super().learn(batch, rows)


class Poisoned(Torch):
    """Calls a batch dropped, and keeps what it did to it."""

    def learn(self, batch, rows):
        outcome = super().learn(batch, rows)
        if outcome.dropped:
            Restless._nudge(self)
        return outcome


class Unpredictable(Torch):
    _lives = itertools.count()

    def bind(self, layout, seed):
        super().bind(layout, seed + next(self._lives))


class Flowing(Torch):
    """Gives out its own memory as the state."""

    def state(self):
        arrays = {f"network/{name}": t.numpy() for name, t in self._module.state_dict().items()}
        return State(arrays, super().state().facts)


class Forgetful(Torch):
    """Leaves out what the optimizer remembers."""

    def state(self):
        state = super().state()
        return State({n: a for n, a in state.arrays.items() if not n.startswith("optimizer/")}, state.facts)


class Strict(Torch):
    """Takes a state of the same shapes alone."""

    def _restore(self, state):
        for name, tensor in self._module.state_dict().items():
            if state.arrays[f"network/{name}"].shape != tuple(tensor.shape):
                raise ValueError(f"{name} has another shape")
        super()._restore(state)


class Hoarding(Torch):
    """Remembers every batch."""

    def learn(self, batch, rows):
        self._numbers = [*getattr(self, "_numbers", []), batch.numbers.copy()]
        return super().learn(batch, rows)

    def state(self):
        state = super().state()
        return State({**state.arrays, "replay": np.concatenate(self._numbers)}, state.facts)


class TwoFaced(Torch):
    """Makes something of its predictions that its network does not tell."""

    def predict(self, batch, rows):
        return {name: 0.9 * values for name, values in super().predict(batch, rows).items()}


BREAKING = [
    ("predicts_before_any_learning", Deaf, "learn first"),
    ("predicts_before_any_learning", Doubles, "expected float32 .*float64"),
    ("predicting_changes_nothing", Restless, "the same state after predicting"),
    ("predictions_of_a_batch_are_those_of_its_parts", Sociable, "to be those of its parts; got .* in row"),
    ("unseen_ids_nulls_and_empty_lists_are_fine", Closed, "ids never seen to be predicted.*KeyError"),
    ("an_empty_batch_is_no_batch", Busy, "after learning from a batch without rows; got others: .*'network/"),
    ("learning_answers_with_predictions_made_before", Late, "made before the update; got"),
    ("learning_teaches", Contrary, "a smaller error of"),
    ("learning_only_reads_what_it_is_given", Scribbling, "changes of 'numbers'"),
    ("row_gradients_have_the_shapes_of_the_rows", Summed, r"expected float32 \(.*, 4\) for the table"),
    ("row_gradients_have_the_shapes_of_the_rows", Uneven, "got float64"),
    ("row_gradients_point_uphill", Downhill, "a loss that grows"),
    ("rows_of_no_weight_teach_nothing", Unweighted, "no gradients from rows of no weight"),
    ("missing_labels_teach_nothing", Filling, "no gradients from rows without a label"),
    ("missing_labels_teach_nothing", Choking, "with missing labels to be learned from; got the loss nan"),
    ("a_batch_that_is_not_finite_changes_nothing", Poisoned, "the same state after a batch dropped for nan"),
    ("a_replay_gives_the_same_bits", Unpredictable, "the same state after the same batches"),
    ("a_state_stays_as_it_was_taken", Flowing, "as it was when it was taken; got others: .*'network/"),
    ("going_on_from_a_state_gives_the_same_bits", Forgetful, "that never stopped; got others: .*'network/"),
    ("features_come_and_go", Strict, "to go on with new features; got ValueError"),
    ("memory_is_bounded", Hoarding, "that does not grow with the number of batches; got .* after .* bytes"),
    ("the_exported_predicts_the_same", TwoFaced, "to predict 1 rows as the learner does; got"),
]


@pytest.mark.parametrize(("name", "kind", "came"), BREAKING, ids=[kind.__name__ for _, kind, _ in BREAKING])
def test_a_broken_learner_is_found_by_the_law_that_it_breaks(name, kind, came):
    law = law_of(name, partial(torch_learner, kind=kind, servable=name in EXPORTING))
    with pytest.raises(LawError, match=f"(?s)^law {name} \\(.*{came}"):
        law()


def test_a_learner_that_promises_what_it_does_not_keep_is_found():
    name = "learning_in_parts_is_learning_the_whole"
    with pytest.raises(LawError, match="after learning in parts"):
        law_of(name, torch_learner, Promises(by_parts=True))()
    assert {name for name, *_ in BREAKING} | {name} == set(NAMES)


def test_what_makes_no_learner_is_told():
    with pytest.raises(LawError, match="expected make\\(layout\\) gives a Learner; got dict"):
        law_of(NAMES[0], lambda layout: {})()


def test_laws_that_say_nothing_are_skipped_with_the_reason():
    cases = {
        "the_exported_predicts_the_same": (Promises(), "it exports nothing"),
        "learning_in_parts_is_learning_the_whole": (Promises(), "does not promise"),
        "memory_is_bounded": (Promises(waived={"memory_is_bounded": "it is small"}), "waived: it is small"),
    }
    for name, (promises, reason) in cases.items():
        with pytest.raises(unittest.SkipTest, match=reason):
            law_of(name, torch_learner, promises)()
    with pytest.raises(ValueError, match="no laws \\['gravity'\\] to waive"):
        learner_laws(torch_learner, Promises(waived={"gravity": "inconvenient"}))


def test_checking_tells_a_verdict_a_law_and_all_that_are_broken():
    small = Promises(fields=["number"], tasks=["binary"], several_labels=False)
    verdicts = check_learner(torch_learner, small)
    assert [verdict.law for verdict in verdicts] == NAMES
    skipped = {verdict.law: verdict.skipped for verdict in verdicts if verdict.skipped}
    assert skipped == {
        "learning_in_parts_is_learning_the_whole": "it does not promise it",
        "row_gradients_point_uphill": "it teaches no rows of tables",
        "the_exported_predicts_the_same": "it exports nothing",
    }
    with pytest.raises(LawError) as failed:
        check_learner(partial(torch_learner, kind=Restless), small)
    broken = [line.split()[1] for line in str(failed.value).splitlines() if line.startswith("law ")]
    assert "predicting_changes_nothing" in broken
    assert len(broken) > 1

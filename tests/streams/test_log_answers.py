"""Answers: what the model made of rows before it learned them, once, for those who asked."""

import math
import threading
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamed import FakeClock, numbers

from onstream.contracts import Batch, Label, Learned, Outcome, Reject, State
from onstream.errors import DeadlineError, RequestError, UnavailableError
from onstream.streams import Log

CLICK = Label("click", "binary")


def made(path, **options):
    return Log(path / "log.db", **{"follow": False, **options})


def learned(first, end, *, bad=(), labels=(CLICK,), scale=0.5, loss=0.25, dropped=False, lost=0):
    """Rows of a log as a trainer tells of them: predictions are the offset times `scale`."""
    good = [at for at in range(first, end) if at not in bad][lost:]
    rejects = tuple(Reject("log", at, "bad price") for at in bad)
    batch = Batch(
        len(good), {}, {}, np.zeros((0, 0), np.float32), {}, {}, None, {}, 0, {"log": end}, rejects, State()
    )
    made = np.array(good, np.float32) * scale
    predictions = {
        label.name: np.repeat(made[:, None], label.classes, 1) if label.classes else made for label in labels
    }
    outcome = Outcome(predictions, loss, {}, dropped) if good else None
    return Learned({"log": first}, batch, outcome, labels, end - len(bad))


def clicks(answered):
    return answered.predictions["click"].to_pylist()


def test_an_answer_has_the_predictions_of_exactly_the_asked_rows(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 4))
        log.append(numbers(4, 3), answer=True)
        log.append(numbers(7, 2))
        assert log.asked(0, 9) == [(4, 7)]
        log.answer(learned(0, 9))
        answered = log.answers(4, 7)
        assert clicks(answered) == [2.0, 2.5, 3.0]
        assert (answered.first, answered.end, answered.loss, answered.examples) == (4, 7, 0.25, 9)
        assert answered.rejects == {}
        assert log.asked(0, 9) == []
    with made(tmp_path) as log:
        assert clicks(log.answers(5, 6)) == [2.5]


def test_rows_that_nobody_asked_for_are_not_stored(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 4))
        log.answer(learned(0, 4))
        with pytest.raises(DeadlineError, match="rows 0 to 4 are in the log"):
            log.answers(0, 4, timeout_s=0.01)


def test_rows_learned_in_several_batches_are_one_answer(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 6), answer=True)
        log.answer(learned(0, 2, loss=1.0))
        with pytest.raises(DeadlineError):
            log.answers(0, 6, timeout_s=0.01)
        log.answer(learned(2, 6, loss=4.0))
        answered = log.answers(0, 6)
        assert clicks(answered) == [0, 0.5, 1, 1.5, 2, 2.5]
        assert answered.loss == pytest.approx(3.0)
        assert answered.examples == 6


def test_rejected_rows_are_answered_with_the_reason(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 3))
        log.append(numbers(3, 3), answer=True)
        log.append(numbers(6, 2), answer=True)
        log.answer(learned(0, 6, bad=(1, 4)))
        answered = log.answers(3, 6)
        assert answered.rejects == {1: "bad price"}
        assert clicks(answered)[::2] == [1.5, 2.5]
        assert math.isnan(clicks(answered)[1])
        log.answer(learned(6, 8, bad=(6, 7)))
        answered = log.answers(6, 8)
        assert answered.rejects == {0: "bad price", 1: "bad price"}
        assert all(math.isnan(p) for p in clicks(answered))
        assert math.isnan(answered.loss)


def test_rows_of_a_dropped_batch_say_that_they_were_not_learned(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 2), answer=True)
        log.answer(learned(0, 2, dropped=True, loss=math.inf))
        answered = log.answers(0, 2)
        assert set(answered.rejects) == {0, 1}
        assert "not finite" in answered.rejects[0]
        assert answered.loss == math.inf


def test_no_row_gets_the_prediction_of_another_when_rows_are_missing_unseen(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 6), answer=True)
        log.answer(learned(0, 6, lost=2))
        answered = log.answers(0, 6)
        assert all(math.isnan(p) for p in clicks(answered))
        assert set(answered.rejects) == set(range(6))


def test_class_labels_are_answered_with_all_their_probabilities(tmp_path):
    kind = Label("kind", "class", 3)
    with made(tmp_path) as log:
        log.append(numbers(0, 2), answer=True)
        log.answer(learned(0, 2, bad=(1,), labels=(CLICK, kind)))
        predictions = log.answers(0, 2).predictions
        assert predictions.schema.field("kind").type == pa.list_(pa.float32(), 3)
        assert predictions["kind"][0].as_py() == [0, 0, 0]
        assert all(math.isnan(p) for p in predictions["kind"][1].as_py())


Cuts = st.lists(st.integers(1, 11), max_size=4).map(lambda cuts: [0, *sorted(set(cuts)), 12])


@given(Cuts, Cuts, st.integers(0, 12))
def test_the_first_answer_stays_when_a_trainer_learns_the_rows_again_in_other_batches(
    tmp_path_factory, first_cuts, second_cuts, reached
):
    with made(tmp_path_factory.mktemp("log")) as log:
        log.append(numbers(0, 5), answer=True)
        log.append(numbers(5, 2))
        log.append(numbers(7, 5), answer=True)
        done = 0
        for begin, end in pairwise(first_cuts):
            if end <= reached:
                log.answer(learned(begin, end, scale=1))
                done = end
        for begin, end in pairwise(second_cuts):
            log.answer(learned(begin, end, scale=-1))
        expected = [float(at if at < done else -at) for at in range(12)]
        assert clicks(log.answers(0, 5)) == expected[:5]
        assert clicks(log.answers(7, 12)) == expected[7:]


def test_a_repeat_that_asks_gets_the_answer_and_one_that_cannot_have_any_is_refused(tmp_path):
    with made(tmp_path) as log:
        asked = log.append(numbers(0, 2), writer="w", sequence=0, answer=True)
        log.answer(learned(0, 2))
        assert log.append(numbers(0, 2), writer="w", sequence=0, answer=True) == asked
        assert clicks(log.answers(0, 2)) == [0, 0.5]
        log.append(numbers(2, 2), writer="w", sequence=1)
        with pytest.raises(RequestError, match="without asking"):
            log.append(numbers(2, 2), writer="w", sequence=1, answer=True)


def test_answers_go_with_their_rows(tmp_path):
    clock = FakeClock()
    with made(tmp_path, clock=clock, retention_s=5) as log:
        log.append(numbers(0, 2), answer=True)
        log.append(numbers(2, 2), answer=True)
        log.answer(learned(0, 2))
        clock.now += 5
        log.append(numbers(4, 1), answer=True)
        assert log.asked(0, 5) == [(4, 5)]
        for first, end in ((0, 2), (2, 4)):
            with pytest.raises(RequestError, match="dropped by retention"):
                log.answers(first, end)
        with pytest.raises(RequestError, match="ends at 5"):
            log.answers(4, 6)


def test_waiting_ends_with_the_answer_of_another_log_object_or_with_stop(tmp_path):
    with made(tmp_path) as log, made(tmp_path) as other:
        log.append(numbers(0, 2), answer=True)
        found = []
        waiting = threading.Thread(target=lambda: found.append(log.answers(0, 2)))
        waiting.start()
        other.answer(learned(0, 2))
        waiting.join(30)
        assert clicks(found[0]) == [0, 0.5]
        log.append(numbers(2, 2), answer=True)
        stop = threading.Event()
        stop.set()
        with pytest.raises(UnavailableError):
            log.answers(2, 4, stop=stop)


def test_a_selected_log_answers_for_the_whole(tmp_path):
    with made(tmp_path) as log:
        log.append(numbers(0, 2), answer=True)
        log.select(["n"]).answer(learned(0, 2))
        assert clicks(log.answers(0, 2)) == [0, 0.5]


def test_appends_are_synced_to_disk_also_after_answers_which_are_not(tmp_path):
    with made(tmp_path) as log:
        statements = []
        log._file._writer.set_trace_callback(statements.append)
        log.append(numbers(0, 2), answer=True)
        log.answer(learned(0, 2))
        log.append(numbers(2, 1))
        log._file._writer.set_trace_callback(None)
    kept = [s for s in statements if s.startswith(("PRAGMA synchronous", "BEGIN"))]
    full, normal = "PRAGMA synchronous = FULL", "PRAGMA synchronous = NORMAL"
    assert kept == [full, "BEGIN IMMEDIATE", normal, "BEGIN IMMEDIATE", full, "BEGIN IMMEDIATE"]

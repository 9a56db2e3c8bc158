"""How far feedback has come: the columns that a stream adds for labels whose feedback is late."""

import numpy as np
import pyarrow as pa
import pytest

from onstream.contracts import Phase
from onstream.errors import JobError
from onstream.features import Features, Id, Label
from onstream.feedback import Labelling, policy_of
from onstream.streams import Place

LABELLING = Labelling({"click": policy_of("elapsed_time_sampling", 60)}, {"click": 0.5}, "id")


def features(*labels, labelling=LABELLING):
    return Features(
        [Id("user", dim=2), *(labels or (Label("clicked", column="click"),))], labelling=labelling
    )


def rows(**changes):
    columns = {
        "id": [7, 7, 8, 9],
        "user": [1, 1, 2, 3],
        "click": pa.array([None, 0, 1, None], pa.int8()),
        "click.phase": pa.array([Phase.ASKED, Phase.EARLY, Phase.FINAL, None], pa.int8()),
        "click.elapsed": pa.array([0, 0.6, 0.25, None], pa.float32()),
        "click.time": pa.array([100.0, 100.0, 101.5, None]),
    }
    return pa.record_batch({k: v for k, v in (columns | changes).items() if v is not None})


def encode(made, batch, **options):
    return made.encode([batch], [Place("", np.arange(batch.num_rows))], {}, **options)


def test_rows_tell_phase_delay_time_and_impression():
    batch = encode(features(), rows())
    assert batch.rejects == ()
    emission = batch.emissions["clicked"]
    assert emission.phase.tolist() == [Phase.ASKED, Phase.EARLY, Phase.FINAL, Phase.ABSENT]
    np.testing.assert_allclose(emission.elapsed, [0, 0.6, 0.25, 0], rtol=1e-6)
    assert emission.time.tolist() == [100, 100, 101.5, 0]
    assert emission.keys[0] == emission.keys[1] != emission.keys[2]
    assert np.isnan(batch.labels["clicked"][[0, 3]]).all()
    assert batch.labels["clicked"][1:3].tolist() == [0, 1]


def test_the_layout_tells_policy_and_share_and_the_stream_what_to_decode():
    made = features()
    assert made.layout.labels[0].policy == LABELLING.policies["click"]
    assert made.layout.labels[0].kept == 0.5
    assert set(made.columns) == {"user", "click", "click.phase", "click.elapsed", "click.time", "id"}
    # Whoever predicts has no policy.
    restored = Features.restore(made.describe())
    assert restored.layout.labels[0].policy is None
    assert set(restored.columns) == {"user", "click"}


def test_a_row_that_tells_an_outcome_must_have_one_unless_it_is_not_required():
    bad = rows(click=pa.array([None, None, 1, None], pa.int8()))
    (reject,) = encode(features(), bad).rejects
    assert (reject.position, reject.reason) == (1, "label 'clicked': missing")
    kept = encode(features(Label("clicked", column="click", required=False)), bad)
    assert kept.rejects == ()


def test_a_label_of_a_row_that_only_asks_is_not_looked_at():
    batch = encode(features(), rows(click=pa.array([1, 0, 1, 1], pa.int8())))
    assert np.isnan(batch.labels["clicked"][[0, 3]]).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"click.phase": [3, 1, 5, 0]}, "column 'click.phase': expected a phase, from 0 to 3"),
        ({"click.elapsed": [0, 0, np.inf, 0]}, "column 'click.elapsed': expected a finite number"),
        ({"click.time": [0, 0, np.inf, 0]}, "column 'click.time': expected a finite number"),
        ({"id": [1.0, 2.0, 2.5, 3.0]}, "column 'id': not a whole number"),
    ],
)
def test_what_cannot_be_read_is_a_reject_and_the_other_rows_stay(changes, reason):
    click = {"click": pa.array([None, 0, 1, 1], pa.int8())}
    batch = encode(features(), rows(**click, **changes))
    assert [(reject.position, reject.reason) for reject in batch.rejects] == [(2, reason)]
    emission = batch.emissions["clicked"]
    assert [len(a) for a in (emission.phase, emission.elapsed, emission.time, emission.keys)] == [3] * 4


def test_without_the_columns_nothing_can_be_learned_but_all_can_be_predicted():
    bare = pa.record_batch({"user": [1, 2]})
    assert [r.reason for r in encode(features(), bare).rejects] == ["missing column 'click'"] * 2
    batch = encode(features(), bare, learn=False)
    assert (batch.num_rows, batch.rejects) == (2, ())
    without_phase = rows(**{"click.phase": None, "click": [0, 1, 1, 0]})
    assert [r.reason for r in encode(features(), without_phase).rejects] == [
        "missing column 'click.phase'"
    ] * 4


def test_negatives_can_be_left_out_of_labels_of_0_and_1_only():
    for label in (Label("click", "real"), Label("click", threshold=2)):
        with pytest.raises(JobError, match="negatives can be left out only where the column holds 0 and 1"):
            features(label, labelling=Labelling(negatives_kept={"click": 0.5}))

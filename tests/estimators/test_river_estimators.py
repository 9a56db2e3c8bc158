"""onstream as estimators of river: its checks, frames of any kind, and what is learned."""

import copy
import io
import math
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from river import checks, datasets, evaluate, linear_model, metrics, preprocessing, stream

from onstream import Files, Id, Job, Label, Number
from onstream.errors import JobError, RequestError
from onstream.estimators import RiverClassifier, RiverRegressor
from tests.estimators.networks import FEATURES, Net, network, rows

SUBJECTS = {"classifier": RiverClassifier(), "regressor": RiverRegressor()}
CHECKS = [
    pytest.param(subject, at, id=f"{subject}-{at}-{check.__name__}")
    for subject, model in SUBJECTS.items()
    for at, check in enumerate(checks.yield_checks(model))
    if check.__name__ not in model._unit_test_skips()
]


@pytest.mark.parametrize(("subject", "at"), CHECKS)
def test_it_passes_the_checks_of_river(subject, at):
    model = SUBJECTS[subject]
    list(checks.yield_checks(model))[at](model.clone())


def test_only_one_check_is_left_out():
    assert RiverClassifier()._unit_test_skips() == {"check_learn_many_matches_learn_one"}


@pytest.mark.parametrize(
    ("dataset", "mine", "rivers", "metric"),
    [
        (datasets.Phishing(), RiverClassifier(), linear_model.LogisticRegression(), metrics.Accuracy()),
        (datasets.ImageSegments(), RiverClassifier(), linear_model.SoftmaxRegression(), metrics.Accuracy()),
        (datasets.TrumpApproval(), RiverRegressor(), linear_model.LinearRegression(), metrics.MAE()),
    ],
    ids=["phishing", "segments", "approval"],
)
def test_it_learns_better_than_a_scaled_linear_model(dataset, mine, rivers, metric):
    own = evaluate.progressive_val_score(dataset.take(1000), mine, metric.clone())
    other = evaluate.progressive_val_score(
        dataset.take(1000), preprocessing.StandardScaler() | rivers, metric.clone()
    )
    assert own.is_better_than(other)


def test_texts_lists_and_booleans_are_features_as_they_come():
    model = RiverClassifier()
    for at in range(200):
        even = at % 2 == 0
        model.learn_one({"word": "yes" if even else "no", "tags": ["a", str(at % 3)], "flag": even}, even)
    assert model.predict_one({"word": "yes"}) is True
    assert model.predict_one({"flag": False}) is False
    assert model.predict_one({"word": "yes", "never": "seen", "tags": []}) is True


def test_labels_of_any_kind_are_learned_of_as_they_come():
    model = RiverClassifier()
    assert model.predict_one({"x": 1}) is None
    model.learn_one({"k": "a"}, "red")
    assert model.predict_proba_one({"k": "a"}) == {"red": 1.0}
    for _ in range(50):
        for kind, label in (("a", "red"), ("b", "green"), ("c", 7)):
            model.learn_one({"k": kind}, label)
    assert [model.predict_one({"k": kind}) for kind in "abc"] == ["red", "green", 7]


def test_what_is_not_there_teaches_nothing():
    model, other = RiverRegressor(), RiverRegressor()
    for at in range(20):
        model.learn_one({"x": at, "gone": None, "nan": math.nan, "far": math.inf}, at)
        other.learn_one({"x": at}, at)
    assert model.predict_one({"x": 3, "gone": None}) == other.predict_one({"x": 3})


def test_a_value_that_is_no_feature_is_refused():
    with pytest.raises(RequestError, match="feature 'x': a value is a number, a text, a boolean or a list"):
        RiverRegressor().learn_one({"x": {"deep": 1}}, 1.0)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, lambda columns: pa.table(columns)])
def test_frames_of_any_library_are_learned_and_come_back(frame):
    xs = [{"x": float(at % 7), "word": "ab"[at % 2]} for at in range(140)]
    columns = {name: [x[name] for x in xs] for name in xs[0]}
    target = {"y": [2.0 * x["x"] for x in xs]}
    frames, series = frame(columns), frame(target)["y"]
    model = RiverRegressor()
    for _ in range(30):
        model.learn_many(frames, series)
    found = model.predict_many(frames)
    assert type(found) is type(series)
    assert np.allclose(np.asarray(found), [model.predict_one(x) for x in xs], atol=1e-4)
    assert np.abs(np.asarray(found) - np.asarray(series)).mean() < 1
    classifier = RiverClassifier()
    for _ in range(30):
        classifier.learn_many(frames, frames["word"])
    assert type(classifier.predict_proba_many(frames)) is type(frames)
    assert list(np.asarray(classifier.predict_many(frames))) == columns["word"]


def test_weights_multiply_the_loss():
    light, heavy, none = RiverRegressor(), RiverRegressor(), RiverRegressor()
    for model, weight in ((light, 0.1), (heavy, 10.0), (none, 0.0)):
        model.learn_one({"k": "a"}, 0.0)
        model.learn_one({"k": "b"}, 1.0, w=weight)
    born = RiverRegressor()
    born.learn_one({"k": "a"}, 0.0)
    assert heavy.predict_one({"k": "b"}) >= light.predict_one({"k": "b"}) > none.predict_one({"k": "b"})


def test_a_pickle_and_a_copy_go_on_to_the_same_bits():
    model = RiverClassifier()
    data = [(x, y) for x, y in datasets.Phishing().take(200)]
    for x, y in data[:100]:
        model.learn_one(x, y)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        mine = copy.deepcopy(model)
        for x, y in data[100:]:
            assert again.predict_proba_one(x) == mine.predict_proba_one(x)
            again.learn_one(x, y)
            mine.learn_one(x, y)


# ------------------------------------------------------------------------- features and a network of one's own


def test_a_network_over_declared_features_learns():
    model = RiverClassifier(features=FEATURES, learner=network())
    for x in rows(250):
        model.learn_one(x, x["user"] in ("u1", "u4", "u7"))
    found = model.predict_proba_one({"user": "u4", "price": 1.0})
    assert set(found) == {False, True}
    assert found[True] > 0.6
    assert model.predict_one({"user": "u2"}) is False


def test_a_network_has_an_output_for_each_class():
    model = RiverClassifier(features=FEATURES, learner=network(3), classes=("a", "b", "c"))
    assert sum(model.predict_proba_one({}).values()) == pytest.approx(1)
    for x in rows(600):
        model.learn_one(x, "abc"[int(x["user"][1]) % 3])
    assert [model.predict_one({"user": f"u{at}", "price": 2}) for at in range(3)] == ["a", "b", "c"]
    with pytest.raises(JobError, match="label 'd' is none of the classes"):
        model.learn_one({}, "d")


def test_a_network_goes_on_from_a_pickle_to_the_same_bits():
    model = RiverRegressor(features=FEATURES, learner=network())
    frame = pd.DataFrame(rows(40))
    model.learn_many(frame, frame["price"])
    again = pickle.loads(pickle.dumps(model))
    for _ in range(3):
        for one in (model, again):
            one.learn_many(frame, frame["price"])
        assert again.predict_many(frame).tolist() == model.predict_many(frame).tolist()


def test_an_estimator_is_made_of_a_job(tmp_path):
    job = Job(Files(tmp_path), [*FEATURES, Label("click")], network(), tmp_path / "model", seed=3)
    model = RiverClassifier.of_job(job)
    assert (model.features, model.seed) == (FEATURES, 3)
    assert isinstance(model.learner.network(), Net)
    model.learn_one({"user": 1, "price": 1}, True)
    assert model.clone().predict_proba_one({"user": 1}) != model.predict_proba_one({"user": 1})


def test_features_and_learner_go_together():
    with pytest.raises(JobError, match="give both, or neither"):
        RiverRegressor(features=(Id("user"),)).learn_one({"user": 1}, 1.0)


def test_a_bad_value_of_a_declared_feature_is_told():
    model = RiverRegressor(features=(Number("price"), Id("user")), learner=network())
    with pytest.raises(RequestError, match=r"row 0: column 'price': not a number, got 'cheap'"):
        model.learn_one({"price": "cheap", "user": 1}, 1.0)
    with pytest.raises(RequestError, match="its values do not go together"):
        model.predict_many(pd.DataFrame({"price": [1, 2], "user": [object(), 1]}))


def test_rivers_own_streams_feed_it():
    csv = "user,price,y\nu1,2.5,1\nu2,3.5,0\n"
    model = RiverClassifier()
    for x, y in stream.iter_csv(io.StringIO(csv), target="y", converters={"price": float, "y": int}):
        model.learn_one(x, y)
    assert set(model.predict_proba_one({"user": "u1"})) == {0, 1}


@pytest.mark.parametrize(("library", "name"), [("river", "RiverClassifier"), ("sklearn", "SklearnRegressor")])
def test_without_its_library_the_extra_is_named(library, name):
    hidden = f"import sys; sys.modules[{library!r}] = None; sys.modules['{library}.base'] = None"
    program = f"{hidden}; import onstream.estimators; onstream.estimators.{name}"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr
    assert f"pip install 'onstream[{library}]'" in said


@pytest.mark.parametrize("factors", [-1, 1.5, None])
def test_factors_that_cannot_be_meant_are_refused(factors):
    with pytest.raises(JobError, match=f"factors must be a whole number of at least 0, got {factors}"):
        RiverRegressor(factors=factors).learn_one({"x": 1.0}, 1.0)

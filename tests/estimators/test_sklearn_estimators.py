"""onstream as estimators of scikit-learn: its checks, and learning as the data comes."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures
from sklearn.utils.estimator_checks import parametrize_with_checks

from onstream import Files, Id, IdList, Job, Label, Number
from onstream.errors import JobError
from onstream.estimators import SklearnClassifier, SklearnRegressor
from tests.estimators.networks import FEATURES, network, rows

STEPS = "a weight of 2 is one step of twice the gradient and not two steps, as for all that learns in steps"
FAILED = {"check_sample_weight_equivalence_on_dense_data": STEPS}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    [SklearnClassifier(), SklearnRegressor()],
    expected_failed_checks=lambda _: FAILED,
)
def test_it_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_a_stream_of_parts_is_learned():
    x, y = load_breast_cancer(return_X_y=True)
    model = SklearnClassifier()
    for begin in range(0, 400, 50):
        part = slice(begin, begin + 50)
        model.partial_fit(x[part], y[part], classes=[0, 1] if begin == 0 else None)
    assert model.score(x[400:], y[400:]) > 0.92


def test_fitting_is_good_enough_for_known_data():
    x, y = load_iris(return_X_y=True)
    assert cross_val_score(SklearnClassifier(), x, y).mean() > 0.9
    x, y = load_diabetes(return_X_y=True)
    assert cross_val_score(SklearnRegressor(factors=0), x, y).mean() > 0.42


def test_a_pipeline_takes_it():
    x, y = load_iris(return_X_y=True)
    assert make_pipeline(PolynomialFeatures(2), SklearnClassifier(factors=0)).fit(x, y).score(x, y) > 0.93


def test_partial_fit_goes_on_where_fit_begins_anew():
    x, y = load_diabetes(return_X_y=True)
    model = SklearnRegressor(epochs=1).fit(x, y)
    first = model.predict(x)
    assert model.fit(x, y).predict(x).tolist() == first.tolist()
    assert model.partial_fit(x, y).predict(x).tolist() != first.tolist()


def test_a_pickle_goes_on_to_the_same_bits():
    x, y = load_iris(return_X_y=True)
    model = SklearnClassifier().partial_fit(x, y, classes=[0, 1, 2])
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        mine = copy.deepcopy(model).partial_fit(x, y)
        assert again.partial_fit(x, y).predict_proba(x).tolist() == mine.predict_proba(x).tolist()


def test_classes_are_asked_for_first_and_stay():
    x, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        SklearnClassifier().partial_fit(x, y)
    model = SklearnClassifier().partial_fit(x, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="is not what it was at the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"y has the labels \[3\], which are none of"):
        model.partial_fit(x[:1], [3])


def test_no_weight_teaches_nothing():
    x, y = load_iris(return_X_y=True)
    weights = (y != 2).astype(float)
    model = SklearnClassifier().fit(x, y, sample_weight=weights)
    assert model.predict_proba(x)[:, 2].max() < 0.4


def test_columns_of_a_frame_are_what_is_declared():
    frame = pd.DataFrame(rows())
    frame["tags"] = [["a", "b"] for _ in range(len(frame))]
    y = np.where(frame["user"].isin(["u1", "u4", "u7"]), "yes", "no")
    features = (*FEATURES, IdList("tags", 2))
    model = SklearnClassifier(features=features, learner=network(), batch_size=16).fit(frame, y)
    assert model.score(frame, y) > 0.95
    assert model.classes_.tolist() == ["no", "yes"]
    again = pickle.loads(pickle.dumps(model))
    assert again.predict_proba(frame).tolist() == model.predict_proba(frame).tolist()


def test_columns_of_an_array_have_names_too():
    x = np.array([[at % 5, at % 3] for at in range(300)], np.float64)
    features = (Id("user", 4, column="x0"), Number("price", column="x1"))
    model = SklearnRegressor(features=features, learner=network(), epochs=20).fit(x, x[:, 0])
    assert model.score(x, x[:, 0]) > 0.8


def test_an_estimator_is_made_of_a_job(tmp_path):
    job = Job(Files(tmp_path), [*FEATURES, Label("y", "real")], network(), tmp_path / "model", batch_size=8)
    model = SklearnRegressor.of_job(job, epochs=2)
    assert (model.features, model.batch_size, model.epochs) == (FEATURES, 8, 2)
    frame = pd.DataFrame(rows(50))
    assert np.isfinite(model.fit(frame, frame["price"]).predict(frame)).all()


def test_features_and_learner_go_together():
    with pytest.raises(JobError, match="give both, or neither"):
        SklearnRegressor(learner=network()).fit([[1.0]], [1.0])


def test_a_missing_value_of_a_frame_is_a_null():
    frame = pd.DataFrame(rows(60))
    frame.loc[3, "user"] = np.nan
    frame.loc[4, "user"] = None
    frame.loc[5, "price"] = np.nan
    frame["user"] = frame["user"].astype(object)
    y = frame["user"].isna().to_numpy()
    model = SklearnClassifier(features=FEATURES, learner=network(), epochs=40).fit(frame, y)
    found = model.predict_proba(frame)[:, 1]
    assert found[y].min() > found[~y].max()


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"factors": -1}, "factors must be a whole number of at least 0, got -1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number of at least 1, got 1.5"),
        ({"random_state": "x"}, "'x' cannot be used to seed"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(params, told):
    x, y = load_iris(return_X_y=True)
    for model in (SklearnClassifier(**params), SklearnRegressor(**params)):
        with pytest.raises(ValueError, match=told):
            model.fit(x, y)


def test_a_random_state_may_be_left_to_chance_or_be_a_generator():
    x, y = load_iris(return_X_y=True)
    drawn = [SklearnRegressor(epochs=1, random_state=None).fit(x, y).predict(x) for _ in range(2)]
    assert drawn[0].tolist() != drawn[1].tolist()
    same = [
        SklearnRegressor(epochs=1, random_state=np.random.RandomState(4)).fit(x, y).predict(x)
        for _ in range(2)
    ]
    assert same[0].tolist() == same[1].tolist()

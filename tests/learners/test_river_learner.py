"""River models as learners: in a job, alone, and what they refuse."""

import math
from typing import ClassVar

import numpy as np
import pytest
from river import (
    anomaly,
    base,
    compose,
    datasets,
    dummy,
    evaluate,
    feature_extraction,
    forest,
    linear_model,
    metrics,
    multiclass,
    naive_bayes,
    preprocessing,
    tree,
)
from sklearn.metrics import roc_auc_score

from onstream import Id, IdList, Label, Number, River, Tensor, Weight
from onstream.errors import JobError
from tests.jobs.watch import run
from tests.learners.rivers import batch_of, bound, phishing, phishing_job


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def progressive(model, rows):
    """Return what river's own loop predicts."""
    found = []
    for x, y in rows:
        found.append(model.predict_proba_one(x).get(True, 0.0))
        model.learn_one(x, y)
    return found


@pytest.mark.parametrize("batch_size", [1, 100, 5_000])
def test_a_job_predicts_phishing_as_river_does_at_any_batch_size(tmp_path, batch_size):
    job = phishing_job(logistic(), tmp_path, batch_size=batch_size, checkpoint_every_s=1e9)
    watch = run(job)
    labels = [y for _, y in phishing()]
    assert job.stream.predictions == np.float32(progressive(logistic(), phishing())).tolist()
    # River's metric has ten thresholds; the job's own has bins finer than 0.1 %.
    found = metrics.ROCAUC()
    for y, p in zip(labels, job.stream.predictions, strict=True):
        found.update(y, p)
    river = evaluate.progressive_val_score(datasets.Phishing(), logistic(), metrics.ROCAUC())
    assert found.get() == pytest.approx(river.get(), abs=1e-12)
    assert f"{found.get():.2%}" == "95.07%"
    exact = roc_auc_score(labels, job.stream.predictions)
    assert watch.report.flat()["phishing/overall/auc"] == pytest.approx(exact, abs=1e-4)


def test_a_job_goes_on_from_its_checkpoint_to_the_same_bits(tmp_path):
    model = forest.ARFClassifier(n_models=3, seed=7)
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    settings = {"batch_size": 32, "checkpoint_every_s": 1e9, "report_every_s": 1e-6}
    whole = phishing_job(model, tmp_path / "whole", count=400, **settings)
    run(whole)
    first = phishing_job(model, tmp_path / "parts", count=400, **settings)
    watch = run(first, reports=3)
    second = phishing_job(model, tmp_path / "parts", count=400, **settings)
    after = run(second)
    assert 0 < len(first.stream.predictions) < 400
    assert watch.stop.is_set()
    assert after.report.examples == 400
    assert first.stream.predictions + second.stream.predictions == whole.stream.predictions


def test_rows_are_predicted_before_they_are_learned_and_by_all_rows_before():
    rows = [{**x, "phishing": y} for x, y in phishing(60)]
    features = [*(Number(name) for name in rows[0] if name != "phishing"), Label("phishing")]
    batch, whole = bound(River(logistic()), features, rows)
    found = whole.learn(batch, {}).predictions["phishing"]
    one, alone = bound(River(logistic()), features, rows[:1])
    single = []
    for row in rows:
        one, _ = batch_of(features, [row])
        before = alone.predict(one, {})["phishing"]
        outcome = alone.learn(one, {})
        assert outcome.row_grads == {}
        assert before.tolist() == outcome.predictions["phishing"].tolist()
        single += before.tolist()
    assert found.tolist() == single
    assert found[0] == 0.5
    assert {k: a.tobytes() for k, a in whole.state().arrays.items()} == {
        k: a.tobytes() for k, a in alone.state().arrays.items()
    }


def test_predicting_changes_nothing():
    rows = [{**x, "phishing": y} for x, y in phishing(50)]
    features = [*(Number(name) for name in rows[0] if name != "phishing"), Label("phishing")]
    batch, learner = bound(River(tree.HoeffdingTreeClassifier(grace_period=10)), features, rows)
    learner.learn(batch, {})
    before = {k: a.tobytes() for k, a in learner.state().arrays.items()}
    learner.predict(batch, {})
    assert {k: a.tobytes() for k, a in learner.state().arrays.items()} == before


class Careless(base.Regressor):
    """Show what came to it, and spoil it."""

    came: ClassVar[list] = []

    def learn_one(self, x, y, w=1.0):
        self.came.append((dict(x), y, w))
        x.clear()

    def predict_one(self, x):
        x["mine"] = 1


def test_a_row_is_a_dict_of_what_was_read_and_a_null_id_is_left_out():
    features = [
        Id("user"),
        IdList("tags"),
        Number("price"),
        Number("age", bounds=[18]),
        Tensor("pixels", (2,)),
        Label("stars", "real"),
        Weight("weight"),
    ]
    rows = [
        {"user": "Ann", "tags": ["a"], "price": 0.1, "age": 7, "pixels": [1, 2], "stars": 4.5, "weight": 2},
        {
            "user": None,
            "tags": None,
            "price": None,
            "age": None,
            "pixels": [3, 4],
            "stars": 1,
            "weight": None,
        },
    ]
    batch, learner = bound(River(Careless(), allow_pickle=True), features, rows)
    Careless.came.clear()
    outcome = learner.learn(batch, {})
    assert outcome.predictions["stars"].tolist() == [0, 0]
    assert outcome.loss == pytest.approx((2 * 4.5**2 + 1) / 2)
    assert Careless.came == [
        ({"user": "Ann", "tags": ["a"], "price": 0.1, "age": 0, "pixels_0": 1.0, "pixels_1": 2.0}, 4.5, 2.0),
        ({"tags": [], "price": 0.0, "pixels_0": 3.0, "pixels_1": 4.0}, 1.0, 1.0),
    ]


def test_classes_come_as_rows_of_probabilities():
    images = list(datasets.ImageSegments().take(300))
    names = sorted({y for _, y in images})
    rows = [{**x, "kind": names.index(y)} for x, y in images]
    features = [*map(Number, images[0][0]), Label("kind", "class", classes=8)]
    batch, learner = bound(River(preprocessing.StandardScaler() | naive_bayes.GaussianNB()), features, rows)
    found = learner.learn(batch, {}).predictions["kind"]
    assert found.shape == (300, 8)
    assert found[0].tolist() == [1 / 8] * 8
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert (found[150:].argmax(axis=1) == batch.labels["kind"][150:]).mean() > 0.7
    assert not found[:, 7][1:].any()


def test_a_classifier_that_only_decides_is_sure():
    rows = [{"x": at % 2, "y": at % 2} for at in range(40)]
    batch, learner = bound(River(linear_model.Perceptron()), [Number("x"), Label("y")], rows)
    found = learner.learn(batch, {}).predictions["y"]
    assert {*found[10:].tolist()} <= {0.0, 1.0} or 0 < found[-1] < 1


def test_several_labels_have_a_model_each():
    rows = [{"x": at % 5, "click": at % 2, "spent": 3.0 * (at % 5)} for at in range(300)]
    features = [Number("x"), Label("click"), Label("spent", "real")]
    models = {"click": dummy.PriorClassifier(), "spent": logistic_regression()}
    batch, learner = bound(River(models), features, rows)
    found = learner.learn(batch, {}).predictions
    assert found["click"][-1] == pytest.approx(0.5, abs=0.01)
    assert found["spent"][-5:].tolist() == pytest.approx([0, 3, 6, 9, 12], abs=0.5)


def logistic_regression():
    return preprocessing.StandardScaler() | linear_model.LinearRegression()


def test_a_label_that_is_absent_teaches_nothing():
    rows = [{"x": 1, "y": 1}, {"x": 1, "y": None}, {"x": 1, "y": 0}]
    batch, learner = bound(River(dummy.PriorClassifier()), [Number("x"), Label("y", required=False)], rows)
    found = learner.learn(batch, {}).predictions["y"]
    assert found.tolist() == [0.5, 1.0, 1.0]


def test_a_detector_scores_and_does_without_the_label():
    rows = [{"x": 0.9 if at in (470, 480) else at % 7 / 100, "odd": None} for at in range(500)]
    model = anomaly.HalfSpaceTrees(n_trees=10, height=6, window_size=50, seed=1)
    batch, learner = bound(River(model), [Number("x"), Label("odd", required=False)], rows)
    scores = learner.learn(batch, {}).predictions["odd"]
    assert {*np.argsort(scores[100:])[-2:].tolist()} == {370, 380}


def test_texts_are_read_by_rivers_own_steps():
    rows = [{"text": "good stuff" if at % 2 else "bad thing", "y": at % 2} for at in range(40)]
    model = feature_extraction.BagOfWords(on="text") | naive_bayes.MultinomialNB()
    batch, learner = bound(River(model), [Id("text"), Label("y")], rows)
    assert (
        np.round(learner.learn(batch, {}).predictions["y"])[10:].tolist() == batch.labels["y"][10:].tolist()
    )


def test_the_users_own_model_is_not_changed_and_what_it_knows_is_kept():
    model = dummy.PriorClassifier()
    for _ in range(3):
        model.learn_one({}, True)
    batch, learner = bound(River(model), [Number("x"), Label("y")], [{"x": 1, "y": 0}] * 3)
    assert learner.learn(batch, {}).predictions["y"].tolist() == [1.0, 0.75, pytest.approx(0.6)]
    assert model.predict_proba_one({}) == {True: 1.0}


@pytest.mark.parametrize(
    ("model", "labels", "why"),
    [
        (
            linear_model.LinearRegression(),
            [Label("y")],
            "label 'y' is binary and needs a Classifier or an Anomaly",
        ),
        (dummy.PriorClassifier(), [Label("y", "real")], "label 'y' is real and needs a Regressor"),
        (
            linear_model.LogisticRegression(),
            [Label("y", "class", classes=3)],
            "has 3 classes, and the model knows two",
        ),
        (
            dummy.PriorClassifier(),
            [Label("y"), Label("z")],
            "labels are .* give a dict with a model for each",
        ),
        ({"z": dummy.PriorClassifier()}, [Label("y")], "give a dict with a model for each"),
        (naive_bayes.GaussianNB(), [Label("y"), Weight("w")], "does not learn rows with weights"),
    ],
)
def test_a_model_that_does_not_fit_the_labels_is_refused(model, labels, why):
    with pytest.raises(JobError, match=why):
        bound(River(model), [Number("x"), *labels], [{"x": 1, "y": 1, "z": 1, "w": 1}])


def test_what_is_no_model_is_refused():
    with pytest.raises(JobError, match="must be an estimator of river, got 'tree'"):
        River("tree")


def test_a_model_that_fails_tells_the_row():
    rows = [{"x": "1", "y": 1}]
    model = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    with pytest.raises(JobError, match=r"model of 'y' failed at row 0 of its batch, \{'x': '1'\}: TypeError"):
        batch, learner = bound(River(model), [Id("x"), Label("y")], rows)
        learner.learn(batch, {})


def test_multiclass_wrappers_and_selectors_fit():
    model = compose.Select("x") | multiclass.OneVsRestClassifier(linear_model.LogisticRegression())
    rows = [{"x": at % 3, "y": at % 3} for at in range(30)]
    batch, learner = bound(River(model), [Number("x"), Label("y", "class", classes=3)], rows)
    assert math.isfinite(learner.learn(batch, {}).loss)

"""River models out of checkpoints: served without the code that made them, pickled ones where that is allowed."""

import numpy as np
import pytest
from river import compose, linear_model, preprocessing, tree
from river.compat import SKL2RiverClassifier
from sklearn.linear_model import SGDClassifier

from onstream import Id, Label, Number, River
from onstream.checkpoints import CheckpointLog, LocalStore
from onstream.contracts import State
from onstream.errors import CheckpointError, JobError, MissingExtraError, RequestError
from onstream.learners.predictors import open_predictor, weights_of
from onstream.learners.river.predictor import RiverPredictor
from onstream.serving.replica import Replica
from tests.jobs.watch import run
from tests.learners.rivers import batch_of, bound, phishing, phishing_job
from tests.serving.clicks import Serving, client

SETTINGS = {"batch_size": 100, "checkpoint_every_s": 1e9}


def logistic():
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def pickled():
    """Return a model with a part that is not river's."""
    return SKL2RiverClassifier(SGDClassifier(loss="log_loss", random_state=1), classes=[False, True])


def expected(model, rows, asked):
    for x, y in rows:
        model.learn_one(x, y)
    return np.float32([model.predict_proba_one(x)[True] for x in asked]).tolist()


def test_a_replica_predicts_as_the_trained_model(tmp_path):
    job = phishing_job(logistic(), tmp_path, **SETTINGS)
    run(job)
    replica = Replica(job.directory)
    assert replica.poll()
    asked = [x for x, _ in phishing(20)]
    with replica.reading() as version:
        found = version.predict(asked)["phishing"].tolist()
    assert found == expected(logistic(), phishing(), asked)


def test_a_served_river_model_answers_over_the_wire(tmp_path):
    import tritonclient.http

    job = phishing_job(logistic(), tmp_path, count=300, name="sites", **SETTINGS)
    run(job)
    asked = [x for x, _ in phishing(7)]
    with Serving(str(job.directory)) as server:
        server.wait_for("is ready: version 1")
        inputs = []
        for name in asked[0]:
            values = np.float64([x[name] for x in asked])
            inputs.append(tritonclient.http.InferInput(name, [7], "FP64"))
            inputs[-1].set_data_from_numpy(values)
        answer = client("http", server).infer("sites", inputs)
    assert answer.as_numpy("phishing").tolist() == expected(logistic(), phishing(300), asked)


def test_what_needs_pickle_is_refused_when_the_job_begins(tmp_path):
    job = phishing_job(pickled(), tmp_path, **SETTINGS)
    with pytest.raises(JobError, match=r"cannot be kept without pickle.*allow_pickle=True"):
        job.train()


def test_a_pickled_model_goes_on_and_is_served_only_where_that_is_allowed(tmp_path):
    job = phishing_job(pickled(), tmp_path, count=300, allow_pickle=True, **SETTINGS)
    run(job)
    run(phishing_job(pickled(), tmp_path, count=500, allow_pickle=True, **SETTINGS))
    asked = [x for x, _ in phishing(20)]
    told = []
    closed = Replica(job.directory, report=told.append)
    assert not closed.poll()
    assert "onstream serve --allow-pickle" in told[0]
    opened = Replica(job.directory, allow_pickle=True)
    assert opened.poll()
    with opened.reading() as version:
        found = version.predict(asked)["phishing"].tolist()
    assert found == expected(pickled(), phishing(500), asked)


def test_a_job_without_allow_pickle_does_not_go_on_from_a_pickle(tmp_path):
    run(phishing_job(pickled(), tmp_path, count=100, allow_pickle=True, **SETTINGS))
    with pytest.raises(CheckpointError, match="is pickled, and reading a pickle runs whatever code it says"):
        phishing_job(logistic(), tmp_path, count=100, **SETTINGS).train()


def test_the_command_serves_a_pickled_model_only_when_told_to(tmp_path):
    job = phishing_job(pickled(), tmp_path, count=100, allow_pickle=True, **SETTINGS)
    run(job)
    with Serving(str(job.directory)) as server:
        server.wait_for("runs whatever code the checkpoint says")
    with Serving(str(job.directory), "--allow-pickle") as server:
        server.wait_for("is ready: version 1")


def test_a_function_that_no_module_has_cannot_be_kept_at_all():
    model = compose.FuncTransformer(lambda x: x) | logistic()
    with pytest.raises(JobError, match="cannot even be pickled"):
        bound(River(model, allow_pickle=True), [Number("x"), Label("y")], [{"x": 1, "y": 1}])


def exported():
    batch, learner = bound(River(logistic()), [Number("x"), Label("y")], [{"x": 1, "y": 1}, {"x": 2, "y": 0}])
    learner.learn(batch, {})
    return batch, learner


def test_the_exported_predictor_predicts_as_the_learner():
    batch, learner = exported()
    predictor = open_predictor(learner.export(), learner._layout)
    assert isinstance(predictor, RiverPredictor)
    predictor.load(weights_of(learner.state()))
    assert predictor.predict(batch, {})["y"].tolist() == learner.predict(batch, {})["y"].tolist()
    assert learner.export().facts == exported()[1].export().facts


def test_an_id_is_the_same_as_a_number_and_as_its_text():
    model = tree.HoeffdingTreeClassifier(grace_period=20, delta=0.5)
    rows = [{"ad": at % 3, "y": int(at % 3 == 1)} for at in range(400)]
    batch, learner = bound(River(model), [Id("ad"), Label("y")], rows)
    learner.learn(batch, {})
    predictor = open_predictor(learner.export(), learner._layout)
    predictor.load(weights_of(learner.state()))
    found = predictor.predict(batch, {})["y"][:3].tolist()
    assert found[0] == found[2] < 0.1 and found[1] > 0.9
    texts, _ = batch_of([Id("ad"), Label("y")], [{"ad": str(at), "y": 0} for at in range(3)])
    assert predictor.predict(texts, {})["y"].tolist() == found


def test_a_row_that_a_model_cannot_predict_is_the_fault_of_the_request():
    model = compose.Select("word") | preprocessing.OneHotEncoder() | linear_model.LogisticRegression()
    batch, learner = bound(River(model), [Id("word"), Label("y")], [{"word": "a", "y": 1}])
    learner.learn(batch, {})
    predictor = open_predictor(learner.export(), learner._layout)
    predictor.load(weights_of(learner.state()))
    assert predictor.predict(batch, {})["y"].tolist() == learner.predict(batch, {})["y"].tolist()
    batch, _ = batch_of([Id("word"), Label("y")], [{"word": "a", "y": 1}, {"word": None, "y": 1}])
    with pytest.raises(
        RequestError, match="row 1: the river model of 'y' cannot predict it: KeyError: 'word'"
    ):
        predictor.predict(batch, {})


@pytest.mark.parametrize("change", [{"format": "onstream.river/9"}, {"labels": ["z"]}, {"labels": None}])
def test_a_changed_export_is_refused(change):
    _, learner = exported()
    facts = learner.export().facts | change
    with pytest.raises(CheckpointError, match="the exported river model is of the format"):
        open_predictor(State({}, facts), learner._layout)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({}, "no river model for the label 'y'"),
        ({"y/program": np.frombuffer(b"[1, []]", np.uint8)}, "cannot be used"),
        ({"y/pickle": np.frombuffer(b"\x80\x04N.", np.uint8)}, "is pickled"),
    ],
)
def test_a_predictor_refuses_what_is_no_model(arrays, why):
    _, learner = exported()
    predictor = open_predictor(learner.export(), learner._layout)
    with pytest.raises(CheckpointError, match=why):
        predictor.load(State(arrays))


def test_a_changed_model_goes_on_as_it_was_and_that_is_told(tmp_path):
    run(phishing_job(logistic(), tmp_path, count=100, **SETTINGS))
    other = preprocessing.MinMaxScaler() | linear_model.LogisticRegression()
    watch = run(phishing_job(other, tmp_path, count=200, **SETTINGS))
    assert any("goes on as the checkpoint has it" in note for note in watch.notes)
    log = CheckpointLog(LocalStore(tmp_path / "model"))
    manifest = log.read(log.versions()[-1])
    assert "StandardScaler" in log.states(manifest, "learner").facts["models"]["phishing"]


def test_without_river_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "river", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onstream\[river\]'"):
        River(None)


def test_batches_of_rows_are_refused():
    _, learner = exported()
    batch, _ = batch_of([Number("x"), Label("y")], [{"x": 1, "y": 1}])
    object.__setattr__(batch, "columns", None)
    with pytest.raises(JobError, match="plain=True"):
        learner.predict(batch, {})

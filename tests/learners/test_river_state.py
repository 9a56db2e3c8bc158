"""River models as arrays: to the bit and back, and what a stranger's arrays cannot do."""

import copy
import functools
import json
import math
import random
import re
from collections import Counter, OrderedDict, defaultdict, deque

import numpy as np
import pytest
from river import (
    anomaly,
    base,
    compose,
    datasets,
    drift,
    ensemble,
    facto,
    feature_extraction,
    forest,
    linear_model,
    model_selection,
    multiclass,
    naive_bayes,
    neighbors,
    optim,
    preprocessing,
    rules,
    stats,
    tree,
)

from onstream.checkpoints.states import state_bytes
from onstream.contracts import State
from onstream.errors import CheckpointError
from onstream.learners.river.names import resolve
from onstream.learners.river.objects import PackError, pack
from onstream.learners.river.unpack import unpack

SCALED = preprocessing.StandardScaler

CLASSIFIERS = {
    "logistic": SCALED() | linear_model.LogisticRegression(optim.Adam(0.01)),
    "softmax": preprocessing.MinMaxScaler() | linear_model.SoftmaxRegression(),
    "robust": preprocessing.RobustScaler() | linear_model.PAClassifier(),
    "bayes": naive_bayes.GaussianNB(),
    "hoeffding": tree.HoeffdingAdaptiveTreeClassifier(grace_period=20, seed=1),
    "forest": forest.AMFClassifier(n_estimators=3, seed=1),
    "bagging": ensemble.LeveragingBaggingClassifier(SCALED() | linear_model.LogisticRegression(), seed=1),
    "boosting": ensemble.ADWINBoostingClassifier(linear_model.LogisticRegression(), n_models=3, seed=1),
    "neighbours": neighbors.KNNClassifier(n_neighbors=3),
    "retraining": drift.DriftRetrainingClassifier(tree.HoeffdingTreeClassifier(), drift.binary.DDM()),
    "factors": facto.FFMClassifier(n_factors=3, seed=1),
    "one of many": multiclass.OneVsRestClassifier(linear_model.ALMAClassifier()),
    "union": (SCALED() + preprocessing.MinMaxScaler()) | linear_model.LogisticRegression(),
    "selected": compose.SelectType(float) | SCALED() | linear_model.Perceptron(),
}
REGRESSORS = {
    "linear": SCALED() | linear_model.LinearRegression(optim.AdaGrad(0.1)),
    "tree": tree.HoeffdingTreeRegressor(grace_period=20),
    "rules": rules.AMRules(n_min=20),
    "forest": forest.AMFRegressor(n_estimators=2, seed=1),
    "target mean": feature_extraction.TargetAgg(by="gallup", how=stats.BayesianMean(0, 1))
    | linear_model.BayesianLinearRegression(),
    "bandit": model_selection.GreedyRegressor(
        [linear_model.LinearRegression(optim.SGD(lr)) for lr in (1e-5, 1e-4)]
    ),
}


def halves(dataset):
    rows = list(dataset.take(240))
    return rows[:160], rows[160:]


def ask(model, x):
    decided = isinstance(model, base.Regressor)
    try:
        return repr(model.predict_one(dict(x)) if decided else model.predict_proba_one(dict(x)))
    except NotImplementedError:
        return repr(model.predict_one(dict(x)))


def learn(model, rows):
    """Return what a model predicts on the way."""
    found = []
    for x, y in rows:
        found.append(ask(model, x))
        model.learn_one(dict(x), y)
    return found


@pytest.mark.parametrize("name", [*CLASSIFIERS, *(f"{name} (real)" for name in REGRESSORS)])
def test_a_model_goes_on_from_arrays_to_the_bit(name):
    real = name.endswith("(real)")
    model = REGRESSORS[name.removesuffix(" (real)")] if real else CLASSIFIERS[name]
    model = model.clone()
    first, second = halves(datasets.TrumpApproval() if real else datasets.Phishing())
    learn(model, first)
    arrays = pack(model)
    state_bytes("learner", State(arrays))
    again = unpack(arrays)
    assert equal(pack(again), arrays)
    assert learn(again, second) == learn(model, second)


def test_a_detector_goes_on_too():
    model = anomaly.HalfSpaceTrees(n_trees=5, height=5, window_size=20, seed=3)
    first, second = halves(datasets.Phishing())
    for x, _ in first:
        model.learn_one(x)
    again = unpack(pack(model))
    assert [again.score_one(x) for x, _ in second] == [model.score_one(x) for x, _ in second]


def equal(one, other):
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


class Bag(base.Base):
    """Attributes of any kind; passes for one of river's."""


Bag.__module__ = "river.base"


@pytest.fixture
def bag(monkeypatch):
    monkeypatch.setattr(base, "Bag", Bag, raising=False)
    Bag.__qualname__ = "Bag"
    return Bag()


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 0, 1 << 90, 0.1, -0.0, 5e-324, float("inf"), "", "ä\ud800", b"\x00\xff"),
        *((1, (2.5, "x")), [1, [2]], {"a": {1: 2}}, {(1, "b"): [3]}, {1, 2}, {"x", "y"}, frozenset({3})),
        *(deque([1, 2], maxlen=3), Counter("abca"), OrderedDict(b=1, a=2), defaultdict(list, {"k": [1]})),
        *(np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("s")),
        *(range(3), slice(1, 2), len, dict, str.lower, np.exp, math.log, re.compile(r"(?u)\w+")),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(bag, value):
    bag.value = value
    found = unpack(pack(bag)).value
    assert type(found) is type(value)
    assert found == value
    assert repr(found) == repr(value)


def test_arrays_keep_dtype_shape_and_order(bag):
    bag.values = [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.float64(3.5).reshape(()),
        np.array(["a", "bc"]),
        np.array([{"x": 1}, None], dtype=object),
        np.zeros((0, 2)),
    ]
    for found, value in zip(unpack(pack(bag)).values, bag.values, strict=True):
        assert found.dtype == value.dtype
        assert found.flags.f_contiguous == value.flags.f_contiguous
        assert found.tolist() == value.tolist()
        assert found.shape == value.shape


def test_generators_draw_on(bag):
    bag.python = random.Random(1)
    bag.python.gauss(0, 1)
    bag.legacy = np.random.RandomState(2)
    bag.legacy.normal()
    bag.new = np.random.default_rng(3)
    again = unpack(pack(bag))
    assert again.python.gauss(0, 1) == bag.python.gauss(0, 1)
    assert again.python.random() == bag.python.random()
    assert again.legacy.normal(size=3).tolist() == bag.legacy.normal(size=3).tolist()
    assert again.new.random(3).tolist() == bag.new.random(3).tolist()


def test_what_is_one_object_stays_one(bag):
    bag.one = bag.other = [1]
    bag.itself = bag
    bag.method = bag.clone
    bag.partial = functools.partial(max, 2, key=abs)
    again = unpack(pack(bag))
    assert again.one is again.other
    assert again.itself is again
    assert again.method.__self__ is again
    assert again.partial(-3) == -3


def test_depth_has_no_bound(bag):
    bag.value = ()
    for _ in range(100_000):
        bag.value = (bag.value,)
    assert len(unpack(pack(bag)).value) == 1
    # Python itself would recurse to forget it.
    while bag.value:
        bag.value = bag.value[0]


def test_equal_models_give_equal_bytes():
    model = CLASSIFIERS["hoeffding"].clone()
    learn(model, halves(datasets.Phishing())[0])
    assert equal(pack(model), pack(copy.deepcopy(model)))


class Mine:
    """Neither river's nor plain."""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (lambda x: x, r"the function .*<lambda> is neither river's nor plain"),
        (Mine(), r"the class .*Mine is neither river's nor plain"),
        (open, "the function .*open is neither river's nor plain"),
        (np.complex128(1j), "numpy complex128 of complex128 has no place"),
        (pytest, "an object of builtins.module cannot be described"),
    ],
)
def test_what_has_no_place_is_told(bag, value, told):
    bag.value = [value]
    with pytest.raises(PackError, match=told):
        pack(bag)


def program(*steps, root=(0,)):
    return {"program": np.frombuffer(json.dumps([list(root), list(steps)]).encode(), np.uint8)}


@pytest.mark.parametrize(
    "steps",
    [
        [["name", "builtins:eval"]],
        [["name", "os:system"]],
        [["name", "river.stream.iter_csv:iter_csv"]],
        [["name", "river.datasets.base:RemoteDataset"]],
        [["name", "river.bandit.datasets.news:NewsArticles"]],
        [["name", "river.base.base:inspect.sys.exit"]],
        [["name", "river.compat.sklearn_to_river:SKL2RiverClassifier"]],
        [["name", "river.optim.sgd:SGD.__init__"]],
        [["name", "river.nowhere:Nothing"]],
        [["new", "builtins:object"]],
        [["new", "collections:Counter"]],
        [["call", "river.linear_model.log_reg:LogisticRegression"]],
        [["call", "builtins:max", 1]],
        [["list"], ["state", 0, None]],
        [["dict"], ["extend", 0, 1]],
        [["list"], ["update", 0, 1, 2]],
        [["new", "river.optim.sgd:SGD"], ["method", [0], "__reduce__"]],
        [["name", "builtins:str"], ["method", [0], "mro"]],
        [["random", 5, 3, None]],
        [["unheard of"]],
        [[]],
        [["tuple", [7]]],
        [["new", "river._river_rust.stats:RsQuantile"], ["bytes", "AAAA"], ["state", 0, [1]]],
        [["new", "river.optim.sgd:SGD"], ["dict"], ["update", 1, "__class__", 1], ["state", 0, [1]]],
    ],
    ids=str,
)
def test_a_stranger_gets_nothing_but_models(steps):
    with pytest.raises(CheckpointError, match="the stored river model cannot be read"):
        unpack(program(*steps))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"[[0]]", b"[[0], 3]", b"\xff"])
def test_damaged_text_is_an_error(text):
    with pytest.raises(CheckpointError):
        unpack({"program": np.frombuffer(text, np.uint8)})


def test_only_what_computes_can_be_named():
    assert resolve("river.optim.sgd:SGD") is optim.SGD
    for name in ("river:stream", "river.stream:iter_csv", "river.base:inspect", "subprocess:run", ":", ""):
        with pytest.raises(LookupError):
            resolve(name)

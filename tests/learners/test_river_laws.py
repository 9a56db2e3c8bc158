"""River models keep the laws of learners."""

import pytest
from river import compose, forest, linear_model, multiclass, preprocessing

from onstream import River
from onstream.testing import Promises, learner_laws

PROMISES = Promises(fields=("id", "number", "tensor"), by_parts=True, plain=True)

# Trees grow with what they see, and do not learn rows with weights.
TREES = Promises(
    fields=("number", "tensor"),
    tasks=("binary", "real"),
    by_parts=True,
    plain=True,
    waived={
        "memory_is_bounded": "Mondrian trees grow with the stream",
        "rows_of_no_weight_teach_nothing": "AMF takes no weights",
    },
)


def scaled(model):
    """Return a pipeline that takes the numbers, standardised, and the ids, one by one."""
    numbers = compose.SelectType(float) | preprocessing.StandardScaler()
    ids = compose.SelectType(int) | preprocessing.OneHotEncoder()
    return (numbers + ids) | model


def linear(layout):
    models = {
        "binary": linear_model.LogisticRegression(),
        "real": linear_model.LinearRegression(),
        "class": multiclass.OneVsRestClassifier(linear_model.LogisticRegression()),
    }
    return River({label.name: scaled(models[label.task]) for label in layout.labels})


def trees(layout):
    models = {
        "binary": forest.AMFClassifier(n_estimators=2, seed=1),
        "real": forest.AMFRegressor(n_estimators=2, seed=1),
    }
    return River({label.name: models[label.task] for label in layout.labels})


CASES = [
    pytest.param(make, name, id=f"{make.__name__}-{name}")
    for make, promises in ((linear, PROMISES), (trees, TREES))
    for name, _ in learner_laws(make, promises)
]


@pytest.mark.parametrize(("make", "law"), CASES)
def test_it_keeps_the_law(make, law):
    dict(learner_laws(make, {linear: PROMISES, trees: TREES}[make]))[law]()

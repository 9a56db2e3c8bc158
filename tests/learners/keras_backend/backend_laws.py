"""The Keras learner keeps the laws of learners."""

from functools import partial

import pytest

from onstream import Keras
from onstream.testing import LAWS, Promises, learner_laws
from tests.learners.keras_backend.models import Any

EXPORTING = "the_exported_predicts_the_same"


def make(name, layout_):
    return Keras(lambda: Any(layout_.labels), lr=0.01, servable=name == EXPORTING)


def law_tests(promises):
    return [
        (law.__name__, dict(learner_laws(partial(make, law.__name__), promises))[law.__name__])
        for law in LAWS
    ]


@pytest.mark.parametrize(
    ("name", "law"),
    law_tests(Promises(fields=("id", "list", "number"), tasks=("binary", "class"), several_labels=False)),
)
def test_it_keeps_the_law(name, law):
    law()


@pytest.mark.long
@pytest.mark.parametrize(("name", "law"), law_tests(Promises()))
def test_it_keeps_the_law_with_every_feature_and_label(name, law):
    law()

"""What a checkpoint's exported model is opened with, by its kind."""

import sys

import numpy as np
import pytest

from onstream.contracts import State
from onstream.errors import CheckpointError
from onstream.learners import ExportedNetwork
from onstream.learners.predictors import open_predictor, weights_of
from tests.learners.batches import drawn
from tests.learners.exporting import trained

PACKAGE = """
import numpy as np

class Constant:
    def __init__(self, exported, layout):
        self.layout = layout

    def load(self, state):
        self.value = state.arrays["value"]

    def predict(self, batch, rows):
        return {label.name: np.full(batch.num_rows, self.value) for label in self.layout.labels}
"""


def test_a_network_without_a_kind_is_one_of_pytorch():
    learner, layout = trained("mlp")
    exported = learner.export()
    assert exported.facts["kind"] == "torch"
    older = State(exported.arrays, {name: fact for name, fact in exported.facts.items() if name != "kind"})
    batch, rows = drawn(layout, 7)
    for state in (exported, older):
        predictor = open_predictor(state, layout)
        assert isinstance(predictor, ExportedNetwork)
        predictor.load(weights_of(learner.state()))
        np.testing.assert_array_equal(
            predictor.predict(batch, rows)["click"], learner.predict(batch, rows)["click"]
        )


def test_an_installed_package_adds_a_kind(tmp_path, monkeypatch):
    (tmp_path / "constant_model.py").write_text(PACKAGE)
    info = tmp_path / "constant_model-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: constant-model\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onstream.predictors]\nconstant = constant_model:Constant\n")
    _, layout = trained("mlp")
    exported = State(facts={"kind": "constant"})
    with pytest.raises(CheckpointError, match="kind 'constant'"):
        open_predictor(exported, layout)
    monkeypatch.syspath_prepend(tmp_path)
    predictor = open_predictor(exported, layout)
    predictor.load(State({"value": np.float32(0.25)}))
    assert predictor.predict(*drawn(layout, 2))["click"].tolist() == [0.25, 0.25]
    del sys.modules["constant_model"]


@pytest.mark.parametrize("kind", ["builtins:exec", "onstream.cli:run", "../x", "", 7, None, ["torch"], {}])
def test_a_kind_that_is_not_known_here_is_refused_and_imports_nothing(kind):
    _, layout = trained("mlp")
    before = set(sys.modules)
    with pytest.raises(CheckpointError, match=r"here are .*'torch'"):
        open_predictor(State(facts={"kind": kind}), layout)
    assert set(sys.modules) == before

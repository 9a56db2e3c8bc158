"""The evolution learner: the laws of learners, and a reward without gradient."""

import numpy as np
import pytest
import torch
from torch import nn

from onstream import Evolution, Files, Job, Label, Number, Strategy
from onstream.errors import DivergedError, JobError
from onstream.testing import Promises, learner_laws
from tests.jobs.watch import run
from tests.learners.batches import drawn
from tests.learners.exporting import made, numbers


class Linear(nn.Module):
    """Everything that a row has, and a score for each label."""

    def __init__(self, labels):
        super().__init__()
        self.labels = labels
        self.layer = nn.LazyLinear(sum(max(label.classes, 1) for label in labels))

    def forward(self, x):
        scores = self.layer(torch.cat([x[name].flatten(1) for name in x], 1))
        widths = [max(label.classes, 1) for label in self.labels]
        parts = dict(zip(self.labels, scores.split(widths, 1), strict=True))
        return {label.name: s if label.classes else s.squeeze(1) for label, s in parts.items()}


def nearness(predictions, batch):
    """Minus the squared error of every label that is there, by the weights of rows."""
    total = 0.0
    for name, values in predictions.items():
        labels = batch.labels[name]
        present = np.isfinite(labels)
        wanted = np.where(present, labels, 0)
        error = (
            wanted - values if values.ndim == 1 else 1 - values[np.arange(len(values)), wanted.astype(int)]
        )
        weights = 1 if batch.weights is None else batch.weights
        total -= float((np.square(error) * present * weights).sum())
    return total


def make(layout):
    strategy = Strategy(population=16, sigma=0.05, lr=0.05)
    return Evolution(lambda: Linear(layout.labels), nearness, strategy)


# Those that take few seconds are examined each time.
QUICK = {
    "learning_answers_with_predictions_made_before",
    "a_batch_that_is_not_finite_changes_nothing",
    "going_on_from_a_state_gives_the_same_bits",
    "rows_of_no_weight_teach_nothing",
}
LAWS = [
    pytest.param(law, id=name, marks=() if name in QUICK else pytest.mark.long)
    for name, law in learner_laws(make, Promises())
]


@pytest.mark.parametrize("law", LAWS)
def test_it_keeps_the_law(law):
    law()


def accuracy(predictions, batch):
    return float(((predictions["click"] > 0.5) == (batch.labels["click"] > 0.5)).mean())


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x.numbers())


def clicks(folder, rows=12_800):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(rows, 2))
    labels = (numbers[:, 0] - 2 * numbers[:, 1] > 0.3).astype(int)
    lines = [f"{a:.4f},{b:.4f},{y}" for (a, b), y in zip(numbers, labels, strict=True)]
    path = folder / "clicks.csv"
    path.write_text("\n".join(["a,b,click", *lines]) + "\n")
    return path


def job(folder, learner, **settings):
    features = [Number("a"), Number("b"), Label("click")]
    return Job(Files(clicks(folder)), features, learner, folder / "model", **{"batch_size": 128} | settings)


def test_it_learns_what_has_no_gradient(tmp_path):
    watch = run(
        job(tmp_path, Evolution(Two, accuracy, Strategy(population=16, sigma=0.2, lr=0.1)), window=2560)
    )
    assert watch.report.labels["click"].window["accuracy"] > 0.93


def test_a_changed_optimizer_is_told(tmp_path):
    learning = job(tmp_path, Evolution(Two, accuracy, Strategy(population=4)))
    run(learning)
    (tmp_path / "clicks.csv").write_text((tmp_path / "clicks.csv").read_text() + "1,1,0\n")
    other = Job(
        Files(tmp_path / "clicks.csv"),
        learning.features,
        Evolution(Two, accuracy, Strategy(population=4, optimizer="sgd")),
        tmp_path / "model",
    )
    assert any("the optimizer was adam and is sgd now" in note for note in run(other).notes)


class Branching(Two):
    def forward(self, x):
        return self.layer(x.numbers() if x.numbers().sum() > 0 else -x.numbers())


def test_a_network_is_exported_when_that_is_first_asked_for():
    layout = made(*numbers(2))
    learner = Evolution(Branching, accuracy, Strategy(population=2))
    learner.bind(layout, 0)
    assert learner.export() is None
    learner.learn(*drawn(layout, 16))
    assert learner.notes == []
    assert (learner.export(), learner.export()) == (None, None)
    [note] = learner.notes
    assert "cannot be exported" in note


def test_rewards_that_stay_not_finite_end_the_job(tmp_path):
    learner = Evolution(Two, lambda predictions, batch: np.nan, Strategy(population=2), max_dropped=3)
    with pytest.raises(DivergedError, match="rewards were not finite in 3 batches in a row"):
        run(job(tmp_path, learner))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((7, accuracy), "network must be callable"),
        ((Two, 7), "reward must be callable"),
        ((Two, accuracy, 0.1), "strategy must be such as Strategy"),
        ((Two, accuracy, Strategy(), 0), "max_dropped must be"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments, told):
    with pytest.raises(JobError, match=told):
        Evolution(*arguments)

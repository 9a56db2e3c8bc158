"""Losses of late feedback: the papers' formulas, and what they converge to."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from onstream import Torch
from onstream.contracts import Label, Phase, State
from onstream.errors import JobError
from onstream.feedback import (
    DelayedFeedback,
    ElapsedTimeSampling,
    FakeNegativeCalibrated,
    FakeNegativeWeighted,
    Wait,
)
from onstream.learners.late import LATE_LOSSES, Late, auxiliary_names, shift
from onstream.learners.losses import activate

from .batches import rows_of
from .late_batches import emitted, late_batch, late_layout

WINDOW_S = 100.0
POLICIES = [
    FakeNegativeWeighted().within(WINDOW_S),
    FakeNegativeCalibrated().within(WINDOW_S),
    DelayedFeedback(after=20).within(WINDOW_S),
    ElapsedTimeSampling(after=20).within(WINDOW_S),
]
named = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def some_rows(policy, n=200, seed=0):
    """Return logits, labels, phases and elapsed windows of any rows that a policy emits."""
    random = np.random.default_rng(seed)
    answered = random.random(n) < 0.5
    delay = random.random(n) * WINDOW_S
    _, labels, phase, elapsed = emitted(answered, delay, policy)
    logits = 2 * random.standard_normal(len(labels))
    auxiliary = {name: random.standard_normal(len(labels)) - 1 for name in auxiliary_names(policy)}
    return logits, labels, phase, elapsed / WINDOW_S, auxiliary


def as_late(logits, labels, phase, elapsed, auxiliary):
    def tensor(array):
        return torch.tensor(array, dtype=torch.float64, requires_grad=True)

    return Late(
        tensor(logits),
        torch.tensor(labels),
        torch.tensor(phase.astype(np.int8)),
        torch.tensor(elapsed),
        {name: tensor(array) for name, array in auxiliary.items()},
    )


def check_against(policy, expected, kept=1.0):
    rows = some_rows(policy)
    late = as_late(*rows)
    losses = LATE_LOSSES[type(policy)](late, policy, kept)
    np.testing.assert_allclose(losses.detach().numpy(), expected(*rows), rtol=1e-6)
    return rows, late, losses


def test_fake_negative_weighted_is_ktenas_importance_weighted_log_loss():
    def expected(z, y, phase, elapsed, auxiliary):
        f = sigmoid(z)
        w = np.minimum(f, 0.9)
        return np.where(y == 1, -(1 + w) * np.log(f), -(1 - w) * (1 + w) * np.log(1 - f))

    (z, y, *_), late, losses = check_against(POLICIES[0], expected)
    losses.sum().backward()
    # Weights are constants: the gradient of the log loss alone, weighted.
    f = sigmoid(z)
    w = np.minimum(f, 0.9)
    weight = np.where(y == 1, 1 + w, (1 - w) * (1 + w))
    np.testing.assert_allclose(late.logits.grad.numpy(), weight * (f - y), rtol=1e-6)


def test_fake_negative_weighted_weighs_by_the_chance_in_the_full_stream():
    def expected(z, y, phase, elapsed, auxiliary):
        f, full = sigmoid(z), np.minimum(sigmoid(z + np.log(0.1)), 0.9)
        return np.where(y == 1, -(1 + full) * np.log(f), -(1 - full) * (1 + full) * np.log(1 - f))

    check_against(POLICIES[0], expected, kept=0.1)


def test_fake_negative_calibrated_is_log_loss_whose_prediction_is_the_odds():
    def expected(z, y, phase, elapsed, auxiliary):
        return -y * np.log(sigmoid(z)) - (1 - y) * np.log(1 - sigmoid(z))

    check_against(POLICIES[1], expected)
    z = torch.tensor([-3.0, -1.0, 2.0])
    b = torch.sigmoid(z)
    calibrated = activate(Label("y", "binary", policy=POLICIES[1]), z)
    torch.testing.assert_close(calibrated, (b / (1 - b)).clamp(max=0.9))


def test_delayed_feedback_is_chapelles_likelihood_in_two_parts():
    policy = POLICIES[2]

    def expected(z, y, phase, elapsed, auxiliary):
        p, rate = sigmoid(z), np.exp(auxiliary["hazard"])
        early = -np.log(1 - p + p * np.exp(-rate * 0.2))
        outcome = np.where(y == 1, -np.log(p) - np.log(rate) + rate * elapsed, -np.log(1 - p))
        return np.select(
            [phase == Phase.EARLY, phase == Phase.CORRECTION], [early, outcome - early], default=outcome
        )

    check_against(policy, expected)


def test_elapsed_time_sampling_weighs_by_late_and_real_chances():
    def expected(z, y, phase, elapsed, auxiliary):
        late_chance = np.minimum(np.exp(auxiliary["delayed"]), 1)
        real = np.maximum(1 - np.exp(auxiliary["fake"]), 0.1)
        weighted = np.where(
            y == 1,
            -(1 + late_chance) * np.log(sigmoid(z)),
            -(1 + late_chance) * real * np.log(1 - sigmoid(z)),
        )
        corrects = phase == Phase.CORRECTION
        for name, rows in (("delayed", phase >= 0), ("fake", (phase == Phase.EARLY) | corrects)):
            guess = sigmoid(auxiliary[name])
            weighted += np.where(rows, -np.where(corrects, np.log(guess), np.log(1 - guess)), 0)
        return weighted

    (z, y, _, _, auxiliary), late, losses = check_against(POLICIES[3], expected)
    losses.sum().backward()
    late_chance = np.minimum(np.exp(auxiliary["delayed"]), 1)
    real = np.maximum(1 - np.exp(auxiliary["fake"]), 0.1)
    weight = np.where(y == 1, 1 + late_chance, (1 + late_chance) * real)
    np.testing.assert_allclose(late.logits.grad.numpy(), weight * (sigmoid(z) - y), rtol=1e-6)


def test_a_shift_makes_odds_of_kept_negatives_those_of_all():
    label = Label("y", "binary", kept=0.1)
    p = 0.3
    kept_odds = p / ((1 - p) * 0.1)
    assert shift(label) == pytest.approx(np.log(0.1))
    assert activate(label, torch.tensor([np.log(kept_odds)])).item() == pytest.approx(p)
    assert shift(replace(label, policy=POLICIES[2])) == 0


# ------------------------------------------------------------------------------- what they converge to


class Bias(nn.Module):
    """A logit for each value of the only number, 0 or 1."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.logits[(x.numbers()[:, 0] > 0.5).long()]


def groups(n, seed=0):
    """Return impressions of two groups: chances 0.3 and 0.05, quick and slow feedback."""
    random = np.random.default_rng(seed)
    group = random.integers(0, 2, n)
    answered = random.random(n) < np.where(group == 1, 0.05, 0.3)
    delay = np.minimum(random.exponential(np.where(group == 1, 30.0, 10.0)), WINDOW_S)
    return group, answered, delay


@named
@pytest.mark.parametrize("kept", [1.0, 0.25])
def test_every_policy_finds_the_chance_of_feedback_in_the_full_stream(policy, kept):
    group, answered, delay = groups(30_000)
    rows, labels, phase, elapsed = emitted(answered, delay, policy, kept=kept)
    # All rows at once: what is found is where the loss leads to, without the noise of small batches.
    made = late_batch(labels, phase, elapsed, rows=rows, ids=0)
    made.numbers[:, 0] = group[rows]
    learner = Torch(Bias, lr=0.1, servable=False)
    learner.bind(late_layout(policy, kept=kept, ids=0), 0)
    for _ in range(250):
        assert not learner.learn(made, rows_of(made)).dropped
    asked = late_batch([0, 0], [1, 1], [0, 0], ids=0)
    asked.numbers[:, 0] = [0, 1]
    found = learner.predict(asked, rows_of(asked))["y"]
    truth = [answered[group == g].mean() for g in (0, 1)]
    # Which negatives were kept is chance too.
    np.testing.assert_allclose(found, truth, rtol=0.02 if kept == 1 else 0.06)


def test_learning_the_fake_negatives_as_they_are_would_not():
    # What the test above would find without weights: b = p / (1 + p).
    _, answered, delay = groups(60_000)
    _, labels, _, _ = emitted(answered, delay, POLICIES[0])
    p = answered.mean()
    assert labels.mean() == pytest.approx(p / (1 + p), rel=1e-6)


# ---------------------------------------------------------------------------------- beside the network


class Own(nn.Module):
    """A network with estimates of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 3)

    def forward(self, x):
        y, delayed, fake = self.linear(x.numbers()).unbind(1)
        return {"y": y, "y.delayed": delayed, "y.fake": fake}


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(1)

    def forward(self, x):
        return self.linear(torch.cat([x.stack().flatten(1), x.numbers()], 1)).squeeze(1)


def learned(learner, policy, steps=5, layout=None):
    learner.bind(layout or late_layout(policy), 0)
    for step in range(steps):
        made = made_batch(policy, step)
        outcome = learner.learn(made, rows_of(made))
    return outcome


def made_batch(policy, seed):
    random = np.random.default_rng(seed)
    _, labels, phase, elapsed = emitted(random.random(60) < 0.5, random.random(60) * WINDOW_S, policy)
    return late_batch(labels, phase, elapsed, seed=seed)


@named
def test_a_learner_goes_on_to_the_bit_from_its_state(policy):
    one, other = Torch(Sum, servable=False), Torch(Sum, servable=False)
    learned(one, policy)
    other.bind(late_layout(policy), 7)
    other.load(one.state())
    for step in (10, 11):
        made = made_batch(policy, step)
        expected, found = one.learn(made, rows_of(made)), other.learn(made, rows_of(made))
        assert found.predictions["y"].tobytes() == expected.predictions["y"].tobytes()
        assert found.row_grads["t"].tobytes() == expected.row_grads["t"].tobytes()
    assert other.notes == []
    for name, array in one.state().arrays.items():
        assert other.state().arrays[name].tobytes() == array.tobytes(), name


@named
def test_what_is_served_predicts_as_the_learner_does(policy):
    from onstream.learners import ExportedNetwork

    learner = Torch(Sum)
    made_for = late_layout(policy, kept=0.2)
    learned(learner, policy, layout=made_for)
    assert learner.notes == []
    exported = ExportedNetwork(learner.export(), made_for)
    weights = {
        name.removeprefix("network/"): array
        for name, array in learner.state().arrays.items()
        if name.startswith("network/")
    }
    exported.load(State(weights))
    asked = made_batch(policy, 20)
    rows = rows_of(asked)
    np.testing.assert_allclose(
        exported.predict(asked, rows)["y"], learner.predict(asked, rows)["y"], rtol=1e-6
    )


def test_heads_send_no_gradient_into_rows():
    policy = ElapsedTimeSampling(after=20).within(WINDOW_S)
    learner = Torch(Sum, servable=False)
    learned(learner, policy)
    made = made_batch(policy, 9)
    made.labels["y"][:] = np.nan
    assert not np.any(learner.learn(made, rows_of(made)).row_grads["t"])


def test_a_network_may_give_the_estimates_itself():
    policy = ElapsedTimeSampling(after=20).within(WINDOW_S)
    learner = Torch(Own, servable=False, optimizer="sgd", lr=0.1)
    learned(learner, policy)
    assert not any(name.startswith("late/") for name in learner.state().arrays)
    with_heads = Torch(Sum, servable=False)
    learned(with_heads, policy)
    assert sum(name.startswith("late/") for name in with_heads.state().arrays) == 4


def test_rows_that_are_only_asked_teach_nothing():
    policy = DelayedFeedback(after=20).within(WINDOW_S)
    learner = Torch(Sum, servable=False, optimizer="sgd")
    learner.bind(late_layout(policy), 0)
    made = late_batch([np.nan] * 4, [Phase.ASKED] * 4, [0.0] * 4)
    before = learner.learn(made, rows_of(made)).predictions["y"]
    assert learner.predict(made, rows_of(made))["y"].tobytes() == before.tobytes()


def test_a_late_label_has_no_other_loss_and_is_binary():
    policy = POLICIES[0]
    with pytest.raises(JobError, match="has the loss of its policy 'fake_negative_weighted'"):
        Torch(Sum, loss="bce").bind(late_layout(policy), 0)
    real = replace(late_layout(policy), labels=(Label("y", "real", policy=policy),))
    with pytest.raises(JobError, match="is for binary labels; use 'wait'"):
        Torch(Sum).bind(real, 0)
    Torch(Sum, loss="mse").bind(replace(real, labels=(Label("y", "real", policy=Wait()),)), 0)

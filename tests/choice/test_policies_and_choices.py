"""By what probability candidates are chosen, and that they are chosen so."""

import math

import numpy as np
import pytest
import torch

from onstream.choice import Candidates, Chooser, EpsilonGreedy, Softmax, Thompson, bootstrapped, policy_of
from onstream.errors import JobError, ShapeError

POLICIES = [
    EpsilonGreedy(0.0),
    EpsilonGreedy(0.3),
    EpsilonGreedy(1.0),
    Softmax(0.2),
    Thompson(draws=50),
    Thompson(draws=50, deviation=1.0),
]


def candidates(*scores, counts=None, heads=None):
    known = np.full(len(scores), 10.0) if counts is None else np.array(counts, np.float64)
    return Candidates(np.array(scores, np.float64), known, None if heads is None else np.array(heads))


def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("scores", [(0.5,), (0.1, 0.9), (0.0, 0.0, 0.0), (1.0, 0.2, 1.0, 0.4)])
def test_probabilities_sum_to_one(policy, scores):
    found = policy.propensities(candidates(*scores), draw())
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert (found >= 0).all()


def test_epsilon_greedy_is_the_best_or_any():
    found = EpsilonGreedy(0.2).propensities(candidates(0.1, 0.7, 0.7, 0.3), draw())
    assert found.tolist() == pytest.approx([0.05, 0.45, 0.45, 0.05])


def test_softmax_weighs_by_score_and_survives_extremes():
    found = Softmax(0.5).propensities(candidates(1.0, 0.5), draw())
    assert found[0] / found[1] == pytest.approx(math.e)
    assert Softmax(1e-3).propensities(candidates(1e4, 0.0), draw()).tolist() == [1.0, 0.0]


def test_thompson_tries_what_it_knows_little_of():
    sure = Thompson(2000).propensities(candidates(0.5, 0.45, counts=(1e6, 1e6)), draw())
    unsure = Thompson(2000).propensities(candidates(0.5, 0.45, counts=(1e6, 5)), draw())
    assert sure[1] == pytest.approx(0.005)
    assert 0.3 < unsure[1] < 0.6


def test_thompson_comes_close_to_the_posterior():
    # Two normal rewards of means 0 and 1 and variances 1/2: the second is better with probability Phi(1).
    found = Thompson(200_000, floor=0.0, deviation=1.0).propensities(
        candidates(0.0, 1.0, counts=(1, 1)), draw()
    )
    assert found[1] == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.005)


def test_thompson_goes_by_the_share_of_heads():
    heads = [[0.1, 0.2], [0.3, 0.2], [0.4, 0.5], [0.0, 0.9]]
    found = Thompson(floor=0.1).propensities(candidates(0.2, 0.45, heads=heads), draw())
    assert found.tolist() == pytest.approx([0.275, 0.725])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: EpsilonGreedy(1.5), "epsilon must be from 0 to 1, got 1.5"),
        (lambda: Softmax(0), "temperature must be a positive number, got 0"),
        (lambda: Thompson(0), "draws must be a whole number above 0"),
        (lambda: Thompson(floor=2), "floor must be from 0 to 1"),
        (lambda: Thompson(prior=0), "prior must be above 0"),
        (lambda: Thompson(deviation=0), "deviation must be above 0"),
        (lambda: policy_of("softmax=-1"), "temperature must be a positive number"),
        (lambda: policy_of("softmax=x"), "policy 'softmax=x'"),
        (lambda: policy_of("best"), "a policy is greedy, uniform, thompson, epsilon=SHARE"),
        (lambda: Thompson().propensities(Candidates(np.ones(2)), draw()), "give counts, or heads"),
        (
            lambda: Thompson().propensities(candidates(2.0), draw()),
            "rewards from 0 to 1, got a prediction of",
        ),
        (lambda: bootstrapped("best"), "loss must be one of"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, why):
    with pytest.raises(JobError, match=why):
        make()


def test_policies_are_read_from_text_and_described():
    assert policy_of("greedy") == EpsilonGreedy(0.0)
    assert policy_of("uniform") == EpsilonGreedy(1.0)
    assert policy_of("epsilon=0.2") == EpsilonGreedy(0.2)
    assert policy_of("softmax=2") == Softmax(2.0)
    assert policy_of("thompson") == Thompson()
    assert {policy.describe()["kind"] for policy in POLICIES} == {"epsilon", "softmax", "thompson"}


# ------------------------------------------------------------------------------------------------ choices


@pytest.mark.parametrize("policy", POLICIES[1:], ids=repr)
def test_what_is_chosen_follows_the_propensities(policy):
    chooser = Chooser(policy)
    scores = np.array([0.1, 0.4, 0.35])
    n = 3_000
    keys = np.repeat(np.arange(n), 3).tolist()
    choices = chooser.choose(np.tile(scores, n), keys, counts=np.tile([20, 5, 100], n))
    chosen = np.bincount(choices.index % 3, minlength=3)
    expected = choices.propensities.reshape(n, 3).sum(axis=0)
    assert np.abs(chosen - expected).max() < 4 * math.sqrt(n / 4)
    assert choices.propensity.tolist() == choices.propensities[choices.index].tolist()


def test_a_request_gets_the_same_choice_again_whatever_stands_beside_it():
    chooser = Chooser(EpsilonGreedy(0.8), seed=3)
    scores = np.random.default_rng(1).random(40)
    keys = [f"request {at // 4}" for at in range(40)]
    whole = chooser.choose(scores, keys)
    for request in range(10):
        alone = chooser.choose(scores[request * 4 : request * 4 + 4], keys[request * 4 : request * 4 + 4])
        assert alone.index[0] + request * 4 == whole.index[request]
    assert Chooser(EpsilonGreedy(0.8), seed=4).choose(scores, keys).index.tolist() != whole.index.tolist()


def test_the_label_or_the_heads_say_what_is_expected():
    predictions = {"click": np.float32([0.1, 0.9]), "buy": np.float32([0.8, 0.2])}
    assert Chooser(EpsilonGreedy(0), "click").choose(predictions, [1, 1]).index.tolist() == [1]
    assert Chooser(EpsilonGreedy(0), "buy").choose(predictions, [1, 1]).index.tolist() == [0]
    heads = Chooser(Thompson(floor=0.0), heads=("click", "buy")).choose(predictions, [1, 1])
    assert heads.propensities.tolist() == [0.5, 0.5]
    assert heads.scores.tolist() == pytest.approx([0.45, 0.55])
    with pytest.raises(JobError, match=r"label must be one of \['buy', 'click'\]"):
        Chooser(EpsilonGreedy(0)).choose(predictions, [1, 1])
    with pytest.raises(JobError, match="no prediction of 'like'"):
        Chooser(EpsilonGreedy(0), "like").choose(predictions, [1, 1])


@pytest.mark.parametrize(
    ("predictions", "keys", "counts", "error", "why"),
    [
        ([0.1, 0.2], [1], None, ShapeError, "keys must be one a row, 2, got 1"),
        ([0.1, 0.2, 0.3], [1, 2, 1], None, ShapeError, "must be neighbours"),
        ([[0.1, 0.2]], [1], None, ShapeError, "one expected reward a row"),
        ([0.1, math.nan], [1, 1], None, JobError, "not finite"),
        ([0.1, 0.2], [1, 1], [3], ShapeError, "counts must be one a row"),
    ],
)
def test_what_does_not_fit_is_refused(predictions, keys, counts, error, why):
    with pytest.raises(error, match=why):
        Chooser(EpsilonGreedy(0)).choose(np.array(predictions), keys, counts=counts)


def test_no_requests_have_no_choices():
    assert Chooser(EpsilonGreedy(0)).choose(np.zeros(0), []).index.tolist() == []


def test_a_bootstrapped_loss_counts_rows_by_poisson_draws():
    torch.manual_seed(0)
    outputs, labels = torch.zeros(20_000), torch.ones(20_000)
    losses = bootstrapped("bce")(outputs, labels) / math.log(2)
    assert losses.mean() == pytest.approx(1, abs=0.03)
    assert losses.var() == pytest.approx(1, abs=0.05)
    assert torch.equal(losses, losses.round())


class Greedier(EpsilonGreedy):
    def propensities(self, candidates, draw):
        return np.ones(len(candidates.scores))


def test_a_policy_that_is_wrong_is_told():
    with pytest.raises(JobError, match="do not sum to 1"):
        Chooser(Greedier()).choose(np.array([0.1, 0.2]), [1, 1])

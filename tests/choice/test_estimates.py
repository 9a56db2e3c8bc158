"""Off-policy estimates on a bandit whose truth is known."""

import math

import numpy as np
import pytest

from onstream.choice import Logged, doubly_robust, ips, mean_reward, snips
from onstream.errors import JobError, ShapeError

# Expected rewards by context and action, and what the two policies do.
REWARDS = np.array([[0.1, 0.5, 0.3, 0.2], [0.6, 0.1, 0.2, 0.4], [0.3, 0.3, 0.7, 0.1]])
LOGGING = np.array([[0.4, 0.2, 0.2, 0.2], [0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
TARGET = np.array([[0.05, 0.85, 0.05, 0.05], [0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1]])
# A model of rewards that is off by a little.
MODEL = REWARDS + np.array([[0.05, -0.05, 0.1, 0.0], [-0.1, 0.0, 0.05, 0.05], [0.0, 0.1, -0.1, 0.05]])
TRUTH = float((TARGET * REWARDS).sum(axis=1).mean())


def logged(seed, n=400):
    """Return choices among four actions in three contexts, and what the model says of them."""
    draw = np.random.default_rng(seed)
    contexts = draw.integers(0, 3, n)
    actions = (draw.random((n, 1)) > LOGGING[contexts].cumsum(axis=1)).sum(axis=1)
    rewards = (draw.random(n) < REWARDS[contexts, actions]).astype(np.float64)
    made = Logged(rewards, LOGGING[contexts, actions], TARGET[contexts, actions])
    return made, MODEL[contexts, actions], (TARGET * MODEL).sum(axis=1)[contexts]


def every(method, seeds=range(400)):
    found = []
    for seed in seeds:
        made, modelled, expected = logged(seed)
        found.append(method(made, modelled, expected))
    return found


METHODS = {
    "ips": lambda made, *_: ips(made),
    "snips": lambda made, *_: snips(made),
    "dr": doubly_robust,
}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_right_on_average_and_its_interval_as_often_as_it_says(method):
    found = every(METHODS[method])
    values = np.array([one.value for one in found])
    error = values.std(ddof=1) / math.sqrt(len(values))
    # The normalised estimate has a bias of about one in the number of requests, here far below its error.
    assert abs(values.mean() - TRUTH) < 3 * error
    covered = np.mean([one.low <= TRUTH <= one.high for one in found])
    assert 0.92 < covered < 0.98
    assert {one.method for one in found} == {method}


def test_models_and_normalised_weights_make_it_vary_less():
    spread = {name: np.std([one.value for one in every(method)]) for name, method in METHODS.items()}
    widths = {
        name: np.mean([one.high - one.low for one in every(method)]) for name, method in METHODS.items()
    }
    for found in (spread, widths):
        assert found["dr"] < 0.8 * found["ips"]
        assert found["snips"] < 0.8 * found["ips"]


def test_the_logging_policy_is_estimated_by_its_rewards():
    made, *_ = logged(0)
    same = Logged(made.rewards, made.propensity, made.propensity)
    plain = mean_reward(made.rewards)
    for found in (ips(same), snips(same)):
        assert found.value == pytest.approx(plain.value)
        assert found.effective == pytest.approx(plain.effective)
    assert (ips(same).low, ips(same).high) == pytest.approx((plain.low, plain.high))


def test_formulas_by_hand():
    made = Logged(np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.25, 0.5]), np.array([1.0, 0.5, 0.0]))
    assert ips(made).value == pytest.approx((2 + 0 + 0) / 3)
    assert snips(made).value == pytest.approx(2 / 4)
    assert ips(made).effective == pytest.approx(16 / 8)
    found = doubly_robust(made, np.array([0.5, 0.5, 0.5]), np.array([0.6, 0.4, 0.2]))
    assert found.value == pytest.approx(((0.6 + 2 * 0.5) + (0.4 - 2 * 0.5) + 0.2) / 3)
    assert ips(made, largest=1.0).value == pytest.approx(1 / 3)


def test_a_wider_interval_is_surer():
    made, modelled, expected = logged(1)
    for estimate in (ips, snips):
        assert estimate(made, confidence=0.99).low < estimate(made, confidence=0.9).low
    narrow = doubly_robust(made, modelled, expected, confidence=0.5)
    assert narrow.high < doubly_robust(made, modelled, expected).high
    one = Logged(np.ones(1), np.ones(1), np.ones(1))
    assert ips(one).high == math.inf


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: Logged(np.ones(2), np.ones(1), np.ones(2)), ShapeError, "must be one a request each"),
        (lambda: Logged(np.ones(0), np.ones(0), np.ones(0)), JobError, "no logged choice"),
        (lambda: Logged(np.ones(1), np.zeros(1), np.ones(1)), JobError, "above 0 and at most 1"),
        (lambda: snips(Logged(np.ones(1), np.ones(1), np.zeros(1))), JobError, "none of the logged choices"),
        (lambda: doubly_robust(logged(0)[0], np.ones(3), np.ones(3)), ShapeError, "modelled and expected"),
        (lambda: ips(logged(0)[0], confidence=1.0), JobError, "confidence must be between 0 and 1"),
        (lambda: ips(logged(0)[0], largest=0.0), JobError, "largest must be above 0"),
    ],
)
def test_what_cannot_be_estimated_is_refused(make, error, why):
    with pytest.raises(error, match=why):
        make()

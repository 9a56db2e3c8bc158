"""The solver: what rewards are worth, and where they lead."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from onstream.checkpoints.states import state_bytes
from onstream.contracts import State
from onstream.errors import CheckpointError, JobError, ShapeError
from onstream.evolution import Solver, Strategy, antithetic_keys, centered_ranks
from onstream.evolution.shaping import utilities

SMALL = {"noise_size": 1 << 16}


def solver(n=6, *, discount=0.8, max_staleness=4, **settings):
    begin = np.random.default_rng(n).normal(size=n).astype(np.float32)
    return Solver(begin, Strategy(**{**SMALL, **settings}), discount=discount, max_staleness=max_staleness)


# ----------------------------------------------------------------------------------------- shaping


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=40))
def test_centered_ranks_follow_their_formula(rewards):
    n = len(rewards)
    expected = [
        (sum(o < r for o in rewards) + (sum(o == r for o in rewards) - 1) / 2) / (n - 1) - 0.5
        for r in rewards
    ]
    found = centered_ranks(rewards)
    assert np.allclose(found, expected)
    assert abs(found.sum()) < 1e-9


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40, unique=True))
def test_utilities_follow_their_formula(rewards):
    n = len(rewards)
    worth = [max(0, np.log(n / 2 + 1) - np.log(1 + sum(o > r for o in rewards))) for r in rewards]
    assert np.allclose(utilities(rewards), np.array(worth) / np.sum(worth) * n - 1)


def test_rewards_that_are_all_equal_move_nothing():
    for shaping in ("ranks", "nes", "standard"):
        moved = solver(shaping=shaping)
        before = moved.parameters.copy()
        assert moved.tell([0, 1, 2, 3], [7.0] * 4).used == 4
        assert np.array_equal(moved.parameters, before)


# ---------------------------------------------------------------------------------------- gradient


def test_the_estimated_gradient_of_a_quadratic_has_no_bias():
    """Of a quadratic, the expected reward has the gradient of the reward itself, whatever sigma is."""
    rng = np.random.default_rng(0)
    curved = rng.normal(size=(5, 5))
    curved = -curved @ curved.T
    sloped = rng.normal(size=5)

    def reward(x):
        return np.einsum("ni,ij,nj->n", x, curved, x) + x @ sloped

    estimates = []
    for trial in range(40):
        one = solver(5, shaping="raw", optimizer="sgd", momentum=0.0, lr=1.0, sigma=0.7, seed=trial)
        keys = antithetic_keys(rng, 500)
        before = one.parameters.copy()
        one.tell(keys, reward((before + one.ask(keys)).astype(np.float64)))
        estimates.append(one.parameters - before)
    true = 2 * curved @ before + sloped
    error = np.mean(estimates, 0) - true
    spread = np.std(estimates, 0) / np.sqrt(len(estimates))
    assert (np.abs(error) < 4 * spread).all()
    assert (spread < 0.2 * np.abs(true).max()).all()


def test_an_antithetic_pair_is_free_of_what_both_halves_earn():
    one, other = (solver(shaping="raw", optimizer="sgd", momentum=0.0) for _ in range(2))
    one.tell([10, 11], [3.0, 1.0])
    other.tell([10, 11], [1003.0, 1001.0])
    assert np.allclose(one.parameters, other.parameters, atol=1e-3)


def estimates(one, keys, rewards):
    """Return what `tell` takes for the gradient, without shaping, times -1 as optimizers that descend want it."""
    return -one.noise.weighted_sum(keys, rewards, 6) / (len(keys) * one.strategy.sigma)


def test_steps_of_adam_are_those_of_torch():
    one = solver(shaping="raw", lr=0.03, weight_decay=0.1)
    twin = torch.tensor(one.parameters.copy(), requires_grad=True)
    steps = torch.optim.Adam([twin], lr=0.03, weight_decay=0.1)
    for at, scale in enumerate([1.0, 3.0, -2.0]):
        keys, rewards = [4 * at, 4 * at + 1], np.array([1.0, -0.5]) * scale
        twin.grad = torch.tensor(estimates(one, keys, rewards))
        steps.step()
        one.tell(keys, rewards)
        assert np.allclose(one.parameters, twin.detach().numpy(), atol=1e-5)


def test_steps_of_sgd_are_averages_of_gradients():
    one = solver(shaping="raw", optimizer="sgd", momentum=0.8, lr=0.03, weight_decay=0.1)
    velocity = np.zeros(6)
    for at, scale in enumerate([1.0, 3.0, -2.0]):
        keys, rewards = [4 * at, 4 * at + 1], np.array([1.0, -0.5]) * scale
        gradient = -estimates(one, keys, rewards) - 0.1 * one.parameters
        velocity = 0.8 * velocity + 0.2 * gradient
        expected = one.parameters + 0.03 * velocity
        one.tell(keys, rewards)
        assert np.allclose(one.parameters, expected, atol=1e-5)


# ------------------------------------------------------------------------------------------ spread


def test_the_spread_follows_its_formula():
    one = solver(shaping="standard", optimizer="sgd", momentum=0.0, lr=0.1, sigma=0.5, sigma_lr=0.3)
    rewards = np.array([2.0, -1.0, 0.5, 0.0])
    rewards = (rewards - rewards.mean()) / rewards.std()
    spread = np.ones(6)
    for keys in ([0, 1, 2, 3], [4, 5, 6, 7]):
        noise = one.noise.rows(keys, 6)
        assert np.allclose(one.ask(keys), 0.5 * spread * noise)
        expected = one.parameters + 0.1 * spread * (rewards @ noise) / (4 * 0.5)
        spread = spread * np.exp(0.15 * (rewards @ (noise**2 - 1)) / 4)
        one.tell(keys, rewards)
        assert np.allclose(one.parameters, expected, atol=1e-5)
        assert np.allclose(one.spread, spread, rtol=1e-5)


def test_the_spread_becomes_small_where_precision_pays():
    one = solver(2, shaping="nes", lr=0.05, sigma=0.5, sigma_lr=0.1)
    for step in range(200):
        keys = np.arange(16 * step, 16 * step + 16)
        tried = one.parameters + one.ask(keys)
        one.tell(keys, -(tried[:, 0] ** 2))
    assert one.spread[0] < 0.2 < one.spread[1]


def test_without_a_rate_the_spread_stays():
    one = solver()
    one.tell([0, 2], [1.0, 0.0])
    assert (one.spread == 1).all()


# --------------------------------------------------------------------------------------- staleness


def test_a_stale_reward_counts_its_discount_and_one_too_stale_nothing():
    plain = {"shaping": "raw", "optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "sigma": 0.5}
    told = solver(discount=0.5, max_staleness=2, **plain)
    told.became(10)
    for version in (11, 12, 13):
        told.tell([2, 3], [1.0, 1.0])  # equal halves: an update that moves nothing
        told.became(version)
    assert told.staleness([13, 12, 11, 10, 14, -1]).tolist() == [0, 1, 2, -1, -1, -1]
    before = told.parameters.copy()
    update = told.tell([8, 20, 30, 40, 50], [1.0, 2.0, 4.0, 99.0, np.nan], [13, 12, 11, 10, 13])
    assert (update.used, update.stale, update.dropped, update.best) == (3, 2, 2, 4.0)
    noise = told.noise.rows([8, 20, 30], 6)
    expected = (1.0 * noise[0] + 0.5 * 2.0 * noise[1] + 0.25 * 4.0 * noise[2]) / (3 * 0.5)
    assert np.allclose(told.parameters - before, expected, atol=1e-5)


def test_rewards_of_nothing_that_counts_change_nothing():
    one = solver()
    one.became(1)
    before = state_bytes("x", one.state())
    assert one.tell([1, 2], [1.0, 2.0], [5, 6]).used == 0
    assert one.tell([1, 2], [np.nan, np.inf]).used == 0
    assert state_bytes("x", one.state()) == before


def test_versions_of_a_branch_that_was_rolled_back_are_not_known():
    one = solver()
    one.became(1)
    one.tell([0, 1], [1.0, 0.0])
    one.became(2)
    kept, parameters = one.state(), one.parameters
    one.tell([2, 3], [1.0, 0.0])
    one.became(3)
    back = Solver.restore(parameters, kept)
    back.became(4)
    assert back.staleness([1, 2, 3, 4]).tolist() == [1, 0, -1, 0]


# ------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("sigma_lr", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_going_on_from_a_state_gives_the_same_bits(optimizer, sigma_lr):
    whole = solver(optimizer=optimizer, sigma_lr=sigma_lr)
    rng = np.random.default_rng(1)
    for step in range(6):
        if step == 3:
            state = whole.state()
            through = State(dict(state.arrays), json.loads(json.dumps(state.facts)))
            other = Solver.restore(whole.parameters, through)
        keys, rewards = antithetic_keys(rng, 4), rng.normal(size=8)
        whole.tell(keys, rewards)
        whole.became(step)
        if step >= 3:
            other.tell(keys, rewards)
            other.became(step)
    assert np.array_equal(whole.parameters, other.parameters)
    assert state_bytes("x", whole.state()) == state_bytes("x", other.state())


def test_a_spread_is_stored_once_it_moved_and_kept_where_the_rate_becomes_0():
    one = solver(sigma_lr=0.1)
    assert "spread" not in one.state().arrays
    one.tell([0, 2], [1.0, 0.0])
    other = Solver.restore(one.parameters, one.state(), dataclasses.replace(one.strategy, sigma_lr=0.0))
    other.tell([4, 6], [1.0, 0.0])
    assert (other.spread != 1).all()
    assert np.array_equal(other.spread, one.spread)


def test_a_spread_of_other_parameters_is_refused():
    one = solver(sigma_lr=0.1)
    one.tell([0, 2], [1.0, 0.0])
    with pytest.raises(CheckpointError, match=r"parameters \(5,\), got \(6,\)"):
        Solver.restore(one.parameters[:5], one.state())


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="2 keys, 1 rewards"):
        solver().tell([1, 2], [1.0])
    with pytest.raises(ShapeError, match="must be a vector"):
        Solver(np.zeros((2, 2), np.float32), Strategy())


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"sigma": 0}, "sigma must be a positive number, got 0"),
        ({"lr": True}, "lr must be a positive number, got True"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"sigma_lr": -0.1}, "sigma_lr must be 0 or a positive number"),
        ({"sigma_lr": 0.1, "shaping": "raw"}, "sigma_lr needs rewards of a known scale: .* got 'raw'"),
        ({"weight_decay": -1}, "weight_decay must be 0 or a positive number"),
        ({"population": 7}, "population must be an even number"),
        ({"optimizer": "newton"}, "optimizer must be one of"),
        ({"shaping": "z"}, "shaping must be one of"),
        ({"seed": -1}, "seed must be"),
        ({"noise_size": 0}, "noise_size must be"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, told):
    with pytest.raises(JobError, match=told):
        Strategy(**setting)

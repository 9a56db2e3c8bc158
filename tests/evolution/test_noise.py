"""The noise table: keys stand for the same perturbation everywhere."""

import subprocess
import sys

import numpy as np
import pytest

from onstream.errors import CheckpointError, JobError
from onstream.evolution import NoiseTable, Solver, Strategy, antithetic_keys
from onstream.evolution.noise import KEY_BITS, noise_size

KEYS = [0, 1, 12, 2**40 + 5, 2**KEY_BITS - 1]


def test_the_halves_of_a_pair_are_each_others_opposite():
    noise = NoiseTable(5, 10_000)
    keys = antithetic_keys(np.random.default_rng(1), 50)
    rows = noise.rows(keys, 20)
    assert (rows[0::2] == -rows[1::2]).all()
    assert len(np.unique(rows[:, 0])) > 90


def test_keys_drawn_and_keys_counted_give_normal_noise():
    noise = NoiseTable(5, 1 << 20)
    for keys in (np.arange(0, 4000, 2), antithetic_keys(np.random.default_rng(1), 2000)[::2]):
        values = noise.rows(keys, 10)
        assert abs(values.mean()) < 0.03
        assert abs(values.std() - 1) < 0.03
        assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.1


def test_a_key_is_the_same_noise_in_every_process():
    code = (
        "import sys; from onstream.evolution import NoiseTable; noise = NoiseTable(7, 1 << 16);"
        f"print(noise.checksum, noise.rows({KEYS}, 9).tobytes().hex())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    here = NoiseTable(7, 1 << 16)
    assert told == f"{here.checksum} {here.rows(KEYS, 9).tobytes().hex()}\n"


def test_another_seed_is_other_noise():
    assert not np.array_equal(NoiseTable(1, 1000).rows(KEYS, 9), NoiseTable(2, 1000).rows(KEYS, 9))


def test_a_weighted_sum_is_that_of_the_rows(monkeypatch):
    # In blocks of a few rows, as those of large networks are.
    monkeypatch.setattr("onstream.evolution.noise._BLOCK", 64)
    noise = NoiseTable(1, 10_000)
    keys = antithetic_keys(np.random.default_rng(2), 31)
    weights = np.random.default_rng(3).normal(size=62)
    expected = weights @ noise.rows(keys, 17).astype(np.float64)
    assert np.allclose(noise.weighted_sum(keys, weights, 17), expected, atol=1e-4)


def test_a_table_is_large_enough_for_its_network_or_refused():
    assert noise_size(10) == 1 << 22
    assert noise_size(1 << 20) == 1 << 24
    with pytest.raises(JobError, match="too small for 11 parameters"):
        NoiseTable(1, 10).rows([0], 11)


def test_noise_that_numpy_makes_otherwise_is_refused():
    solver = Solver(np.zeros(3, np.float32), Strategy(noise_size=1000))
    state = solver.state()
    state.facts["noise"]["checksum"] ^= 1
    with pytest.raises(CheckpointError, match="use one version of numpy"):
        Solver.restore(solver.parameters, state)

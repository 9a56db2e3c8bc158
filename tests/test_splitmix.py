"""Numbers that look drawn."""

import numpy as np

from onstream.splitmix import mixed

SEEDS = [0, 1, 2, 2**63, 2**64 - 1]


def test_they_are_what_splitmix64_draws():
    # The first three draws from the seed 0, as its inventors' program prints them.
    drawn = [mixed(at * 0x9E3779B97F4A7C15 % 2**64) for at in range(3)]
    assert drawn == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_an_array_gives_what_its_numbers_give():
    found = mixed(np.array(SEEDS, np.uint64))
    assert found.dtype == np.uint64
    assert found.tolist() == [mixed(seed) for seed in SEEDS]

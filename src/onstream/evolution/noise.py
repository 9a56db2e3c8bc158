"""The noise table: perturbations that processes agree on by a number alone."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from onstream.contracts import Array, Rows
from onstream.errors import CheckpointError, JobError
from onstream.splitmix import mixed

__all__ = ["KEY_BITS", "NoiseTable", "antithetic_keys", "noise_size"]

KEY_BITS = 53
"""Keys are below 2 ** 53, so that every reader of JSON gets exactly the key that was written."""

_LEAST_SIZE = 1 << 22
# With fewer positions a parameter the slices of two keys would often be nearly the same.
_POSITIONS_A_PARAMETER = 16

# Rows of perturbations that are made at once, in floats: 64 MiB.
_BLOCK = 1 << 24

_tables: dict[tuple[int, int], Array] = {}
_making = threading.Lock()


class NoiseTable:
    """Standard normal numbers made once per process from a seed; a key stands for a slice of them and a sign.

    Parameters
    ----------
    seed : int
    size : int
        How many numbers. A perturbation of `n` parameters is a slice of `n` of them.

    Notes
    -----
    Keys ``2 * i`` and ``2 * i + 1`` are an antithetic pair: the same slice, added and subtracted. A slice begins
    at a hash of `i`, so keys may be drawn at random or counted up. Tables of one seed and size share their
    memory, 4 bytes a number, and take about 8 ns a number to make.

    References
    ----------
    Salimans et al. 2017, Evolution Strategies as a Scalable Alternative to Reinforcement Learning, sections 2
    (antithetic, or mirrored, sampling) and 2.1 (one block of noise shared by all; only its index is sent).

    Examples
    --------
    >>> noise = NoiseTable(seed=1, size=1000)
    >>> plus, minus = noise.rows([6, 7], 3)
    >>> bool((plus == -minus).all())
    True
    """

    def __init__(self, seed: int, size: int) -> None:
        self.seed = seed
        self.size = size
        with _making:
            if (seed, size) not in _tables:
                made = np.random.Generator(np.random.SFC64(seed)).standard_normal(size, dtype=np.float32)
                made.flags.writeable = False
                _tables[seed, size] = made
            self._values = _tables[seed, size]

    @property
    def checksum(self) -> int:
        """CRC-32 of the numbers."""
        return zlib.crc32(self._values.data)

    def check(self, checksum: int) -> None:
        """Raise CheckpointError if the numbers are not those that another process has.

        How random bits become normal numbers may change with the version of numpy.
        """
        if self.checksum != checksum:
            raise CheckpointError(
                f"the noise of seed {self.seed} differs from that of the process that began this model: numpy "
                f"{np.__version__} makes other numbers than its version; use one version of numpy for all"
            )

    def rows(self, keys: npt.ArrayLike, n: int) -> Rows:
        """Return the noise of each key, float32 (keys, n)."""
        begins, signs = self._places(keys, n)
        slices = np.lib.stride_tricks.sliding_window_view(self._values, n)
        chosen: Rows = slices[begins] * signs[:, None]
        return chosen

    def weighted_sum(self, keys: npt.ArrayLike, weights: npt.ArrayLike, n: int, *, power: int = 1) -> Rows:
        """Return the sum of a power of the noise of each key times its weight, float32 (n,), with bounded memory."""
        keys = np.asarray(keys)
        weights = np.asarray(weights, np.float32)
        total = np.zeros(n, np.float32)
        for part in _blocks(len(keys), n):
            rows = self.rows(keys[part], n)
            # The first power would be a copy.
            total += weights[part] @ (rows if power == 1 else rows**power)
        return total

    def _places(self, keys: npt.ArrayLike, n: int) -> tuple[npt.NDArray[np.int64], Rows]:
        """Return where the slice of each key begins, and its sign."""
        if n > self.size:
            raise JobError(f"a noise table of {self.size:,} numbers is too small for {n:,} parameters")
        numbers = np.asarray(keys).astype(np.uint64)
        begins = mixed(numbers >> np.uint64(1)) % np.uint64(self.size - n + 1)
        signs = np.where(numbers & np.uint64(1), np.float32(-1), np.float32(1))
        return begins.astype(np.int64), signs


def antithetic_keys(generator: np.random.Generator, pairs: int) -> npt.NDArray[np.int64]:
    """Return the keys of new antithetic pairs, each beside its other half: int64 (2 * pairs,)."""
    numbers = generator.integers(1 << (KEY_BITS - 1), size=pairs, dtype=np.int64)
    keys: npt.NDArray[np.int64] = (np.repeat(numbers, 2) << 1) | np.tile([0, 1], pairs)
    return keys


def noise_size(num_parameters: int) -> int:
    """Return how large a table a network of so many parameters should have: a power of two, at least 2 ** 22."""
    wanted = _POSITIONS_A_PARAMETER * num_parameters
    return max(_LEAST_SIZE, 1 << (wanted - 1).bit_length())


def _blocks(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(width, 1))
    return (slice(at, at + step) for at in range(0, rows, step))

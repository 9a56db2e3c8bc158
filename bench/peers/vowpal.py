"""Vowpal Wabbit's logistic regression, reading its own files in its own C++ driver."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from vowpalwabbit import Workspace


@dataclass(frozen=True)
class Result:
    """Rows learned from, the seconds it took, and the progressive loss (nats a row, before each update)."""

    rows: int
    seconds: float
    loss: float

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.rows / self.seconds


def from_text(path: Path, *, bits: int = 22, rate: float = 0.5) -> Result:
    """Learn once from Vowpal Wabbit's text format.

    Parameters
    ----------
    bits : int
        The table has 2 ** `bits` weights; ids that fall together share one.
    rate : float
        Learning rate of its adaptive, normalised updates.
    """
    return learn(f"--data {path}", bits, rate)


def from_cache(path: Path, *, bits: int = 22, rate: float = 0.5) -> Result:
    """Learn once from its binary cache, in which the text is already parsed and hashed. See `write_cache`."""
    return learn(f"--cache_file {path}", bits, rate)


def write_cache(text: Path, path: Path, *, bits: int = 22) -> None:
    """Write the binary cache of a text file; it belongs to one choice of `bits`."""
    learn(f"--data {text} --cache_file {path} --kill_cache", bits, 0.5)


def learn(source: str, bits: int, rate: float) -> Result:
    begin = time.perf_counter()
    workspace = Workspace(
        f"{source} --quiet --loss_function logistic --bit_precision {bits} --learning_rate {rate}"
    )
    # Given --data, the constructor has already read the whole file; given only a cache, it has not.
    if not workspace.parser_ran:
        workspace.run_parser()
    seconds = time.perf_counter() - begin
    rows = int(workspace.get_weighted_examples())
    loss = workspace.get_sum_loss() / rows
    workspace.finish()
    return Result(rows, seconds, loss)

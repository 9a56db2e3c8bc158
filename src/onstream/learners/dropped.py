"""Batches that were dropped since nothing finite came of them."""

from __future__ import annotations

from dataclasses import dataclass

from onstream.errors import DivergedError

__all__ = ["Dropped"]


@dataclass
class Dropped:
    """Count the batches in a row that were dropped, and stop the job at too many.

    Parameters
    ----------
    most : int
        So many in a row stop the job.
    figures : str
        What was not finite, such as "rewards".
    advice : str
        What to do about it.
    in_a_row : int
    """

    most: int
    figures: str = "loss or gradients"
    advice: str = "lower the learning rate, set clip_norm, or look at the inputs"
    in_a_row: int = 0

    def add(self, last: float) -> None:
        """Count one more; `last` is its loss, or its reward.

        Raises
        ------
        DivergedError
            If these are `most` in a row.
        """
        self.in_a_row += 1
        if self.in_a_row >= self.most:
            raise DivergedError(
                f"{self.figures} were not finite in {self.in_a_row} batches in a row (the last: {last}); parameters "
                f"are as before; {self.advice}"
            )

    def clear(self) -> None:
        """Begin to count anew: a batch was learned from."""
        self.in_a_row = 0

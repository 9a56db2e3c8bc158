"""The share of bad rows among recent ones, and the limit at which a job gives up."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Sequence

from onstream.contracts import Reject, State
from onstream.errors import BadInputError, JobError

__all__ = ["RejectShare"]

_TOP = 5


class RejectShare:
    """Keep the share of rejects among recent rows.

    Parameters
    ----------
    limit : float
        The share, from 0 to 1, above which `check` raises.
    window_rows : int, default 10,000
        How many rows are recent; good and bad ones count.
    min_rows : int, default 1,000
        With fewer recent rows than this, `check` does not judge.

    Notes
    -----
    Rows are forgotten batch by batch, so the window holds at least `window_rows` and at most one batch more.

    Examples
    --------
    >>> share = RejectShare(0.5, min_rows=2)
    >>> share.update(1, [Reject("a.csv", 0, "not valid JSON")] * 3)
    >>> share.share
    0.75
    """

    def __init__(self, limit: float, window_rows: int = 10_000, min_rows: int = 1_000) -> None:
        """Begin with an empty window."""
        if not 0 <= limit <= 1:
            raise JobError(f"the limit of RejectShare must be from 0 to 1, got {limit!r}")
        self.limit = limit
        self.window_rows = window_rows
        self.min_rows = min_rows
        self._window: deque[tuple[int, Counter[str]]] = deque()
        self._num_rows = 0
        self._reasons: Counter[str] = Counter()

    @property
    def share(self) -> float:
        """The share of bad rows among recent ones; 0 before any row."""
        return self._reasons.total() / self._num_rows if self._num_rows else 0.0

    def update(self, num_good: int, rejects: Sequence[Reject]) -> None:
        """Take in one batch: the number of its good rows, and its rejects."""
        num_rows = num_good + len(rejects)
        if not num_rows:
            return
        reasons = Counter(reject.reason for reject in rejects)
        self._window.append((num_rows, reasons))
        self._num_rows += num_rows
        self._reasons += reasons
        while self._num_rows - self._window[0][0] >= self.window_rows:
            old_rows, old_reasons = self._window.popleft()
            self._num_rows -= old_rows
            self._reasons -= old_reasons

    def check(self, dead_letters: str | os.PathLike[str] | None = None, *, final: bool = False) -> None:
        """Raise BadInputError if the share is above the limit; its text names the file `dead_letters`.

        With `final` no more rows will come, so that fewer than `min_rows` are judged too.
        """
        if self.share <= self.limit or (self._num_rows < self.min_rows and not final):
            return
        # Ties by name: the text must not depend on the order of arrival.
        top = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
        where = "" if dead_letters is None else f"; the rows are in {os.fspath(dead_letters)!r}"
        raise BadInputError(
            f"{self._reasons.total()} of the last {self._num_rows} rows ({self.share:.1%}) are bad, "
            f"the limit is {self.limit:.1%}: "
            + ", ".join(f"{reason} ({count})" for reason, count in top)
            + where
        )

    def state(self) -> State:
        """Return the window."""
        return State(facts={"window": [[num_rows, dict(reasons)] for num_rows, reasons in self._window]})

    def load(self, state: State) -> None:
        """Go on from `state`."""
        self._window = deque((num_rows, Counter(reasons)) for num_rows, reasons in state.facts["window"])
        self._num_rows = sum(num_rows for num_rows, _ in self._window)
        self._reasons = sum((reasons for _, reasons in self._window), Counter())

"""One embedding table in this process."""

from __future__ import annotations

import os

import numpy as np

from onstream.contracts import Delta, Keys, Rows, State
from onstream.core import Plan
from onstream.core import Table as CoreTable
from onstream.tables.optimizers import Adagrad, RowOptimizer
from onstream.tables.policies import Chance, Constant, Expire, Normal, SeenTimes, Uniform

__all__ = ["Table"]


class Table:
    """Embedding rows by 64-bit key: created on first sight, moved by their optimizer, dropped when stale.

    Parameters
    ----------
    dim : int
        Floats of a row.
    optimizer : RowOptimizer or None
        None makes a table that is only read: rows have no optimizer state and `push` changes nothing.
    initial : Constant, Uniform or Normal
        How a new row is drawn, from a hash of its key and `seed`.
    admission : SeenTimes, Chance or None
        When an id gets a row; None means at first sight.
    expiry : Expire or None
        When it loses it; None means never.
    seed : int
    threads : int, optional
        Default: one per processor that this process may use, at most 16.

    Notes
    -----
    Keys are exact: no two share a row. A key without a row reads as the row that it would be born with, so
    predicting without learning gives what learning would have predicted. Results depend neither on the number
    of threads nor on the order in which rows came to be. Memory grows in blocks; rows never move. Calls from
    several threads wait for each other, but for pulls without learning, which run side by side, and for `state`
    and `load_state`, which must stand alone.

    Examples
    --------
    >>> import numpy as np
    >>> from onstream.tables import SGD, Constant, Table
    >>> table = Table(dim=2, optimizer=SGD(lr=1.0), initial=Constant(0.0))
    >>> keys = np.array([7, 9, 7], np.uint64)
    >>> table.push(keys, table.pull(keys) + np.float32(1))
    >>> table.pull(keys)[:2].tolist()
    [[-2.0, -2.0], [-1.0, -1.0]]
    """

    def __init__(
        self,
        dim: int = 16,
        *,
        optimizer: RowOptimizer | None = Adagrad(),
        initial: Constant | Uniform | Normal = Uniform(),
        admission: SeenTimes | Chance | None = None,
        expiry: Expire | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        self._core = CoreTable(
            dim,
            optimizer.slices(dim) if optimizer else [{"kind": "none", "width": dim}],
            initial.describe(),
            admission.describe() if admission else None,
            expiry.seconds if expiry else 0,
            seed,
            threads or min(16, len(os.sched_getaffinity(0))),
        )

    @property
    def dim(self) -> int:
        """Floats of a row that the network sees."""
        return self._core.dim

    @property
    def state_width(self) -> int:
        """Floats of a row that its optimizer remembers."""
        return self._core.state_width

    @property
    def num_candidates(self) -> int:
        """Ids that wait for admission, counted exactly."""
        return self._core.num_candidates()

    @property
    def size_bytes(self) -> int:
        """Memory of rows and index, in bytes."""
        return self._core.size_bytes()

    def __len__(self) -> int:
        """Return the number of rows, those past their time included until they are reclaimed."""
        return len(self._core)

    def pull(
        self,
        keys: Keys,
        *,
        now: int = 0,
        learn: bool = True,
        out: Rows | None = None,
        plan: Plan | None = None,
    ) -> Rows:
        """Return the rows of `keys`.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n,)
            Key 0 means "no row" and reads as zeros.
        now : int
            Event time in seconds since 1970.
        learn : bool
            Whether this is a sight: keys may be admitted, sights are counted, rows past their time dropped.
        out : ndarray of float32, shape (n, dim), optional
            Receives the rows.
        plan : Plan, optional
            Of the same keys: grouping them, and finding those that are the same, is half of the work of learning,
            and needs no table, so it can be done ahead. Only their number is checked: a plan of as many other keys
            gives, and changes, the rows of those.

        Returns
        -------
        ndarray of float32, shape (n, dim)
        """
        rows = np.empty((len(keys), self.dim), np.float32) if out is None else out
        if learn and plan is not None:
            self._core.pull_planned(plan, rows, now)
        else:
            self._core.pull(keys, rows, now, learn)
        return rows

    def push(self, keys: Keys, grads: Rows, *, plan: Plan | None = None) -> None:
        """Apply one gradient step to the rows of `keys`.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n,)
            Keys may repeat; gradients of one key are summed in order of occurrence, then applied once. Keys
            without a row are passed over.
        grads : ndarray of float32, shape (n, dim)
        plan : Plan, optional
            That of the pull.

        Raises
        ------
        ShapeError
            If `grads` has other than `len(keys)` rows or `dim` columns.

        Notes
        -----
        O(n) time. A push that follows the pull of the same keys needs no look-ups.
        """
        if plan is not None:
            self._core.push_planned(plan, grads)
        else:
            self._core.push(keys, grads)

    def cut(self) -> Delta:
        """Return copies of the rows touched, and the keys dropped, since the last cut."""
        return Delta(*self._core.cut(candidates=False, all=False))

    def cut_candidates(self) -> Delta:
        """Return what changed among the ids that wait for admission since the last such cut; rows of width 0."""
        return Delta(*self._core.cut(candidates=True, all=False))

    def rows(self) -> Delta:
        """Return copies of all rows; `cut` is not affected."""
        return Delta(*self._core.cut(candidates=False, all=True))

    def candidates(self) -> Delta:
        """Return copies of all ids that wait for admission; `cut_candidates` is not affected."""
        return Delta(*self._core.cut(candidates=True, all=True))

    def evict(self, now: int, max_rows: int | None = None) -> int:
        """Drop rows past their time among the next `max_rows`, going round; return how many were dropped.

        A learning pull does this in passing; calling it is needed only to reclaim everything at once.
        """
        return self._core.evict(now, (1 << 62) if max_rows is None else max_rows)

    def load(self, delta: Delta, *, touched: bool = False, newer_only: bool = False) -> None:
        """Put in rows, over those that are there, and take out the deleted ones.

        Parameters
        ----------
        delta : Delta
            `bounds` are not needed.
        touched : bool
            Whether these rows belong to the next cut.
        newer_only : bool
            Leave rows that are there and were seen later, or at the same time more often.
        """
        self._load(delta, touched, newer_only, candidates=False)

    def put(self, keys: Keys, weights: Rows, *, seen: int, count: int) -> None:
        """Put in rows that were learned elsewhere; they belong to the next cut.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n,)
            Each once.
        weights : ndarray of float32, shape (n, dim)
        seen : int
            Event time of their last sight, in seconds since 1970.
        count : int
            Sights so far.

        Notes
        -----
        The state of the optimizer is that of rows which begin so and were never moved.
        """
        count_array, seen_array = (np.full(len(keys), value, np.uint32) for value in (count, seen))
        states = self._core.begin_states(weights)
        self._core.load(False, keys, seen_array, count_array, weights, states, touched=True, newer_only=False)

    def load_candidates(self, delta: Delta, *, touched: bool = False, newer_only: bool = False) -> None:
        """Put in ids that wait for admission, as `cut_candidates` gave them."""
        self._load(delta, touched, newer_only, candidates=True)

    def _load(self, delta: Delta, touched: bool, newer_only: bool, candidates: bool) -> None:
        self._core.remove(candidates, delta.deleted)
        self._core.load(
            candidates, delta.keys, delta.seen, delta.count, delta.weights, delta.state, touched, newer_only
        )

    def state(self) -> State:
        """Return what admission remembers beside the waiting ids."""
        sketch, counters = self._core.admission_state()
        return State({"sketch": sketch, "counters": counters})

    def load_state(self, state: State) -> None:
        """Go on from what `state` returned."""
        self._core.load_admission_state(state.arrays["sketch"], state.arrays["counters"])

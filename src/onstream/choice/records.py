"""Choices and their rewards in an embedded log."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from onstream.choice.chooser import Choices
from onstream.errors import JobError, ShapeError
from onstream.streams import Log

__all__ = [
    "CANDIDATE",
    "CHOSEN",
    "KEY",
    "PROPENSITY",
    "REWARD",
    "SCORE",
    "VERSION",
    "Appending",
    "ChoiceLog",
    "read_choices",
]

KEY = "choice.key"
CANDIDATE = "choice.candidate"
CHOSEN = "choice.chosen"
PROPENSITY = "choice.propensity"
SCORE = "choice.score"
VERSION = "choice.version"
REWARD = "choice.reward"

_CHUNK_ROWS = 16_384


class Appending(Protocol):
    """Where choices are kept: a `Log`."""

    def append(self, rows: pa.RecordBatch) -> Any:
        """Keep rows."""


class ChoiceLog:
    """Keep what was chosen, by what propensity, and what came of it.

    Parameters
    ----------
    log : Log
        Or anything with an `append` of record batches. Of a server's log: ``ChoiceLog.at(client)``.

    Notes
    -----
    Every candidate is a row, so that another policy can be asked what it would have chosen: the columns of the request,
    "choice.key", "choice.candidate" (its number among those of the request), "choice.chosen", "choice.propensity" of
    each candidate, "choice.score" and "choice.version". A reward is a row of "choice.key" and "choice.reward", whenever
    it is known. Rewards of one key are added up.
    """

    def __init__(self, log: Appending) -> None:
        self._log = log

    @classmethod
    def at(cls, client: Any) -> ChoiceLog:
        """Return the log that a `Client` sends to, as ``Client(address, log="choices")`` names it."""
        return cls(_Sending(client))

    def append(
        self, rows: pa.RecordBatch, keys: Sequence[Any], choices: Choices, *, version: int = 0
    ) -> None:
        """Keep the choices among rows.

        Parameters
        ----------
        rows : pyarrow.RecordBatch
            The candidates, with the columns that the model reads.
        keys : sequence of int or str, shape (rows,)
            The request of each row.
        choices : Choices
        version : int
            Of the model by which was chosen.
        """
        if rows.num_rows != len(choices.scores):
            raise ShapeError(f"there are {rows.num_rows} rows, and choices among {len(choices.scores)}")
        if taken := [name for name in rows.schema.names if name.startswith("choice.")]:
            raise JobError(f"column {taken[0]!r}: names that begin with 'choice.' are those of the choice")
        chosen = np.zeros(rows.num_rows, bool)
        chosen[choices.index] = True
        texts = [str(key) for key in keys]
        fresh = np.array([at == 0 or key != texts[at - 1] for at, key in enumerate(texts)], bool)
        places = np.arange(len(texts))
        own = {
            KEY: pa.array(texts, pa.string()),
            CANDIDATE: pa.array((places - np.maximum.accumulate(places * fresh)).astype(np.int32)),
            CHOSEN: pa.array(chosen),
            PROPENSITY: pa.array(choices.propensities),
            SCORE: pa.array(choices.scores),
            VERSION: pa.array(np.full(rows.num_rows, version, np.int64)),
        }
        columns = dict(zip(rows.schema.names, rows.columns, strict=True))
        self._log.append(pa.RecordBatch.from_pydict({**columns, **own}))

    def reward(self, rewards: Mapping[Any, float]) -> None:
        """Keep what came of choices, by key.

        Raises
        ------
        JobError
            If a reward is no finite number; none of them is kept then.
        """
        for key, value in rewards.items():
            if not _is_finite(value):
                raise JobError(f"the reward of {key!r} must be a finite number, got {value!r}")
        keys = pa.array([str(key) for key in rewards], pa.string())
        values = pa.array([float(value) for value in rewards.values()], pa.float64())
        self._log.append(pa.RecordBatch.from_pydict({KEY: keys, REWARD: values}))


class _Sending:
    """A client as what one appends to."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def append(self, rows: pa.RecordBatch) -> None:
        self._client.send(rows)


def read_choices(log: Log) -> Iterator[tuple[pa.RecordBatch, list[float | None]]]:
    """Yield the candidates of one request after the other, some requests at a time, with the reward of each row's key.

    A reward is None where there is none (yet). A request that was logged twice is given once.

    Notes
    -----
    Reads the log twice, first the rewards, which are kept in memory by key.
    """
    rewards: dict[str, float] = {}
    for batch in _batches(log):
        if REWARD in batch.schema.names:
            for key, value in zip(
                batch.column(KEY).to_pylist(), batch.column(REWARD).to_pylist(), strict=True
            ):
                rewards[key] = rewards.get(key, 0.0) + value
    met: set[str] = set()
    for batch in _whole(batch for batch in _batches(log) if CHOSEN in batch.schema.names):
        keys = batch.column(KEY).to_pylist()
        kept = np.zeros(len(keys), bool)
        fresh = False
        for at, candidate in enumerate(batch.column(CANDIDATE).to_pylist()):
            if candidate == 0:
                fresh = keys[at] not in met
                met.add(keys[at])
            kept[at] = fresh
        if kept.any():
            rows = batch.filter(pa.array(kept))
            yield rows, [rewards.get(key) for key in rows.column(KEY).to_pylist()]


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _batches(log: Log) -> Iterator[pa.RecordBatch]:
    for chunk in log.read({"log": log.first}, max_rows=_CHUNK_ROWS, stop=threading.Event()):
        if KEY in chunk.batch.schema.names:
            yield chunk.batch


def _whole(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows so that no request is cut in two."""
    left: pa.RecordBatch | None = None
    for batch in batches:
        if left is not None and left.schema == batch.schema:
            batch = pa.concat_batches([left, batch])
        elif left is not None:
            yield left
        begins = np.flatnonzero(batch.column(CANDIDATE).to_numpy() == 0)
        cut = int(begins[-1]) if len(begins) else 0
        if cut:
            yield batch.slice(0, cut)
        left = batch.slice(cut)
    if left is not None:
        yield left

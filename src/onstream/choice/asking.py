"""Asking a server what it predicts of a request's candidates, choosing one, and keeping what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from onstream.choice.chooser import Chooser
from onstream.choice.policies import Floats
from onstream.choice.records import ChoiceLog
from onstream.errors import RequestError

__all__ = ["Choice", "Choosing"]


class Predicted(Protocol):
    """What a server answered."""

    @property
    def predictions(self) -> Mapping[str, Any]: ...
    @property
    def version(self) -> int: ...


class Predicting(Protocol):
    """Whom one asks: a `Client`."""

    def predict(self, rows: pa.RecordBatch, /) -> Predicted:
        """Predict rows."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice.

    Attributes
    ----------
    index : int
        Which of the candidates.
    propensity : float
        With what probability it was chosen.
    version : int
        Of the model by which.
    """

    index: int
    propensity: float
    version: int


class Choosing:
    """Choose among candidates by what a server predicts of them, and keep each choice in a log.

    Parameters
    ----------
    client : Client
    chooser : Chooser
    log : ChoiceLog, optional
        ``ChoiceLog(Log("choices.db"))`` keeps choices in a file here, ``ChoiceLog.at(Client(address, log="choices"))``
        in a log of the server. The choice is durable when `choose` returns.
    counts : callable, optional
        From how many examples each candidate is known, given the rows; for `Thompson`.

    Examples
    --------
    >>> from onstream import Client
    >>> from onstream.choice import ChoiceLog, Chooser, Choosing, EpsilonGreedy
    >>> with Client("grpc://127.0.0.1:8815") as client:  # doctest: +SKIP
    ...     choosing = Choosing(client, Chooser(EpsilonGreedy(0.1)), ChoiceLog.at(client))
    ...     choice = choosing.choose([{"user": 7, "item": item} for item in (3, 4, 5)], key="request 1")
    ...     choosing.reward("request 1", 1.0)
    """

    def __init__(
        self,
        client: Predicting,
        chooser: Chooser,
        log: ChoiceLog | None = None,
        *,
        counts: Callable[[pa.RecordBatch], Floats] | None = None,
    ) -> None:
        self._client = client
        self._chooser = chooser
        self._log = log
        self._counts = counts

    def choose(self, candidates: Sequence[Mapping[str, Any]] | pa.RecordBatch, key: Any) -> Choice:
        """Choose one candidate of a request.

        Parameters
        ----------
        candidates : sequence of mapping, or pyarrow.RecordBatch
            With the columns that the model reads.
        key : int or str
            Of the request, another one for each; the reward is told by it. Asking again with the same key gives the
            same choice, as long as the model is the same, and counts once.
        """
        rows = (
            candidates
            if isinstance(candidates, pa.RecordBatch)
            else pa.RecordBatch.from_pylist(list(candidates))
        )
        if not rows.num_rows:
            raise RequestError(f"request {key!r} has no candidates to choose from")
        answer = self._client.predict(rows)
        counts = None if self._counts is None else self._counts(rows)
        keys = [key] * rows.num_rows
        choices = self._chooser.choose(answer.predictions, keys, counts=counts)
        if self._log is not None:
            self._log.append(rows, keys, choices, version=answer.version)
        return Choice(int(choices.index[0]), float(choices.propensity[0]), answer.version)

    def reward(self, key: Any, value: float) -> None:
        """Keep what came of a choice."""
        if self._log is None:
            raise RequestError(
                "there is no log to keep rewards in; give one, as in Choosing(client, chooser, log)"
            )
        self._log.reward({key: value})

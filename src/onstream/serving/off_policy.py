"""What a version of a model would have earned by its choices, from a log of the choices of others."""

from __future__ import annotations

import os

from onstream.choice import Chooser, Comparison, RowCounts, Thompson, compare, policy_of
from onstream.errors import CheckpointError, JobError
from onstream.serving.replica import Replica
from onstream.streams import Log

__all__ = ["estimate"]


def estimate(
    directory: str | os.PathLike[str],
    log: Log | str | os.PathLike[str],
    *,
    tag: str | None = None,
    policy: str = "greedy",
    label: str | None = None,
    count: str | None = None,
    confidence: float = 0.95,
    largest: float | None = None,
    missing: float | None = 0.0,
    allow_pickle: bool = False,
) -> Comparison:
    """Estimate what a version and a policy would have earned on the requests of a log.

    Parameters
    ----------
    directory : path
        Of the model.
    log : Log or path
        Of choices, as `ChoiceLog` keeps them.
    tag : str, optional
        Of the version; the newest by default.
    policy : str
        As `policy_of` reads it: how that version's predictions would be chosen by.
    label : str, optional
        Whose prediction is the expected reward; needed if there are several.
    count : str, optional
        The `Id` whose rows are counted, for "thompson".
    confidence, largest, missing
        As `compare` says.
    allow_pickle : bool
        Read also a model that is pickled.

    Raises
    ------
    CheckpointError
        If there is no such version, or it cannot be read.
    JobError
        If the log holds no choices.

    Notes
    -----
    The doubly robust estimate takes the version's own predictions for the model of rewards. It is unbiased if the
    version did not learn the rewards of this very log; for one that did, go by the others.
    """
    chosen = policy_of(policy)
    if isinstance(chosen, Thompson) and count is None:
        raise JobError("thompson needs to know whose examples to count: give the Id, such as count='item'")
    if count is not None and not isinstance(chosen, Thompson):
        raise JobError(f"thompson alone counts examples: leave out the count of {count!r}, or choose by it")
    told: list[str] = []
    replica = Replica(directory, tag=tag, report=told.append, allow_pickle=allow_pickle)
    if not replica.poll():
        raise CheckpointError(
            "; ".join(told) or replica.status().error or f"there is no version in {str(directory)!r}"
        )
    with replica.reading() as version:
        # By number: a tag, or the newest, may be another version by now.
        counts = None if count is None else RowCounts(directory, count, tag=str(version.version))
        kept = log if isinstance(log, Log) else Log(log, follow=False)
        try:
            return compare(
                kept,
                version.predict,
                Chooser(chosen, label=label),
                counts=None if counts is None else lambda rows: counts.of(rows.column(counts.column)),
                confidence=confidence,
                largest=largest,
                missing=missing,
            )
        finally:
            if kept is not log:
                kept.close()

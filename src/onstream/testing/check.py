"""Examining a learner by every law."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from onstream.testing.laws import LAWS, Law
from onstream.testing.subject import LawError, Make, Promises, Skip, Subject

__all__ = ["Verdict", "check_learner", "learner_laws"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one law says of a learner.

    Attributes
    ----------
    law : str
    skipped : str or None
        Why the law says nothing of this learner; None if it was examined, and holds.
    """

    law: str
    skipped: str | None = None


def learner_laws(make: Make, promises: Promises = Promises()) -> list[tuple[str, Callable[[], None]]]:
    """Return the name of every law and what examines the learner by it, such as for `pytest.mark.parametrize`.

    Parameters
    ----------
    make : callable
        Given a `Layout`, returns a learner that nobody has bound. It is called many times. The learner takes all
        features and labels of the layout; those with fewer of them learn the same way.
    promises : Promises
        What the learner can do.

    Returns
    -------
    list of (str, callable)
        The callable takes nothing. It raises `LawError` if the law is broken, and `unittest.SkipTest`, which
        pytest too knows, if it says nothing of this learner.

    Raises
    ------
    ValueError
        If `promises` waive a law that there is not.

    Examples
    --------
    ::

        @pytest.mark.parametrize(("name", "law"), learner_laws(lambda layout: Torch(Network)))
        def test_it_keeps_the_law(name, law):
            law()
    """
    names = [law.__name__ for law in LAWS]
    if unknown := sorted(set(promises.waived) - set(names)):
        raise ValueError(f"there are no laws {unknown} to waive; the laws: {', '.join(names)}")
    subject = Subject(make, promises)
    return [(law.__name__, partial(_examine, law, subject)) for law in LAWS]


def check_learner(make: Make, promises: Promises = Promises()) -> list[Verdict]:
    """Examine a learner by every law.

    Parameters
    ----------
    make, promises
        As `learner_laws` takes them.

    Returns
    -------
    list of Verdict
        One a law: that it holds, or why it was skipped.

    Raises
    ------
    LawError
        If laws are broken; the message tells which, what was expected and what came.

    Examples
    --------
    >>> from torch import nn
    >>> from onstream import Torch
    >>> from onstream.testing import Promises, check_learner
    >>> class Sum(nn.Module):
    ...     def forward(self, x):
    ...         return x.stack().sum((1, 2))
    >>> verdicts = check_learner(
    ...     lambda layout: Torch(Sum), Promises(fields=["id"], tasks=["binary"], several_labels=False)
    ... )
    >>> [verdict.law for verdict in verdicts if verdict.skipped]
    ['learning_in_parts_is_learning_the_whole']
    """
    verdicts, errors = [], []
    for name, law in learner_laws(make, promises):
        try:
            law()
            verdicts.append(Verdict(name))
        except Skip as skip:
            verdicts.append(Verdict(name, str(skip)))
        except LawError as error:
            errors.append(error)
    if errors:
        raise LawError("\n".join(map(str, errors))) from errors[0]
    return verdicts


def _examine(law: Law, subject: Subject) -> None:
    name = law.__name__
    if name in subject.promises.waived:
        raise Skip(f"waived: {subject.promises.waived[name]}")
    sentence = (inspect.getdoc(law) or "").splitlines()[0]
    try:
        law(subject)
    except LawError as error:
        raise LawError(f"law {name} ({sentence}): {error}") from error
    except Skip:
        raise
    except Exception as error:
        raise LawError(
            f"law {name} ({sentence}): expected no error; got {type(error).__name__}: {error}"
        ) from error

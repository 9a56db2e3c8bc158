"""Suites that whatever plugs into onstream can be checked with, by its own tests or by hand."""

from onstream.testing.check import Verdict, check_learner, learner_laws
from onstream.testing.laws import LAWS
from onstream.testing.subject import LawError, Promises

__all__ = ["LAWS", "LawError", "Promises", "Verdict", "check_learner", "learner_laws"]

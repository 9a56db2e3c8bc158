"""Choosing among candidates by what is predicted of them, and telling what another choice would have earned."""

from onstream.choice.asking import Choice, Choosing
from onstream.choice.bootstrap import bootstrapped
from onstream.choice.chooser import Choices, Chooser
from onstream.choice.estimates import Estimate, Logged, doubly_robust, ips, mean_reward, snips
from onstream.choice.off_policy import Comparison, compare
from onstream.choice.policies import Candidates, EpsilonGreedy, Policy, Softmax, Thompson, policy_of
from onstream.choice.records import ChoiceLog
from onstream.choice.row_counts import RowCounts

__all__ = [
    "Candidates",
    "Choice",
    "ChoiceLog",
    "Choices",
    "Chooser",
    "Choosing",
    "Comparison",
    "EpsilonGreedy",
    "Estimate",
    "Logged",
    "Policy",
    "RowCounts",
    "Softmax",
    "Thompson",
    "bootstrapped",
    "compare",
    "doubly_robust",
    "ips",
    "mean_reward",
    "policy_of",
    "snips",
]

"""Learning with a river model."""

from onstream.learners.river.learner import River

__all__ = ["River"]

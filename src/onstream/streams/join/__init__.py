"""The join of impressions with feedback that comes later, by event time."""

from onstream.streams.join.declarations import Feedback
from onstream.streams.join.join import Join

__all__ = ["Feedback", "Join"]

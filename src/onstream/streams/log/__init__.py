"""The embedded log: a durable stream in one file."""

from onstream.streams.log.answers import PARTITION, Answered, prediction_columns
from onstream.streams.log.appends import Appended
from onstream.streams.log.groups import Claim, LogGroup
from onstream.streams.log.stream import Log

__all__ = ["PARTITION", "Answered", "Appended", "Claim", "Log", "LogGroup", "prediction_columns"]

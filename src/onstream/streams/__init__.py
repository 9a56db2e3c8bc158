"""Where examples come from: files and the embedded log; and how their flow is cut, paced and judged."""

from onstream.streams.ahead import Ahead
from onstream.streams.cut import Cut, Place, cut
from onstream.streams.dead_letters import DeadLetters
from onstream.streams.files import Files
from onstream.streams.log import Answered, Appended, Log
from onstream.streams.log_answers import prediction_columns
from onstream.streams.pace import EventPace
from onstream.streams.reject_share import RejectShare

__all__ = [
    "Ahead",
    "Answered",
    "Appended",
    "Cut",
    "DeadLetters",
    "EventPace",
    "Files",
    "Log",
    "Place",
    "RejectShare",
    "cut",
    "prediction_columns",
]

"""The loop that trains, how it is run, and what it tells."""

from onstream.trainer.guard import Guard
from onstream.trainer.loop import Trainer
from onstream.trainer.pause import Pause, read_pause, resume
from onstream.trainer.progress import Observer, Progress, Summary
from onstream.trainer.publish import Gate, Published
from onstream.trainer.row_file import RowFile
from onstream.trainer.settings import Settings
from onstream.trainer.warm_start import WarmStart

__all__ = [
    "Gate",
    "Guard",
    "Observer",
    "Pause",
    "Progress",
    "Published",
    "RowFile",
    "Settings",
    "Summary",
    "Trainer",
    "WarmStart",
    "read_pause",
    "resume",
]

"""The loop that trains, how it is run, and what it tells."""

from onstream.trainer.loop import Trainer
from onstream.trainer.progress import Observer, Progress, Summary
from onstream.trainer.settings import Settings

__all__ = ["Observer", "Progress", "Settings", "Summary", "Trainer"]

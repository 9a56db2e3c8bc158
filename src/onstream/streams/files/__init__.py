"""Files as a stream."""

from onstream.streams.files.stream import Files

__all__ = ["Files"]

"""Formats: how the messages of a stream become rows."""

from onstream.streams.formats.arrow_ipc import ArrowIpc
from onstream.streams.formats.avro import Avro
from onstream.streams.formats.csv import Csv
from onstream.streams.formats.format import Decoded, Format, Undecodable
from onstream.streams.formats.json import Json

__all__ = ["ArrowIpc", "Avro", "Csv", "Decoded", "Format", "Json", "Undecodable"]

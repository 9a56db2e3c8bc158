"""Formats: how the messages of a stream become rows."""

from onstream.streams.formats.arrow_ipc import ArrowIpc
from onstream.streams.formats.avro import Avro
from onstream.streams.formats.csv import Csv
from onstream.streams.formats.custom import Custom
from onstream.streams.formats.format import Decoded, Format, Undecodable
from onstream.streams.formats.json import Json
from onstream.streams.formats.protobuf import Protobuf
from onstream.streams.formats.sparse import Libffm, Libsvm, VowpalWabbit

__all__ = [
    "ArrowIpc",
    "Avro",
    "Csv",
    "Custom",
    "Decoded",
    "Format",
    "Json",
    "Libffm",
    "Libsvm",
    "Protobuf",
    "Undecodable",
    "VowpalWabbit",
]

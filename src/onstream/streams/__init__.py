"""Where examples come from: files and the embedded log; and how their flow is cut, paced and judged."""

from onstream.streams.ahead import Ahead
from onstream.streams.cache import Cache
from onstream.streams.cut import Cut, Place, cut
from onstream.streams.dead_letters import DeadLetters
from onstream.streams.files import Files
from onstream.streams.formats import (
    ArrowIpc,
    Avro,
    Csv,
    Custom,
    Json,
    Libffm,
    Libsvm,
    Protobuf,
    VowpalWabbit,
)
from onstream.streams.join import Feedback, Join
from onstream.streams.kafka import Kafka, KafkaWriter
from onstream.streams.log import Answered, Appended, Log, prediction_columns
from onstream.streams.pace import EventPace
from onstream.streams.reject_share import RejectShare
from onstream.streams.sample import Sample

__all__ = [
    "Ahead",
    "Answered",
    "Appended",
    "ArrowIpc",
    "Avro",
    "Cache",
    "Csv",
    "Custom",
    "Cut",
    "DeadLetters",
    "EventPace",
    "Feedback",
    "Files",
    "Join",
    "Json",
    "Kafka",
    "KafkaWriter",
    "Libffm",
    "Libsvm",
    "Log",
    "Place",
    "Protobuf",
    "RejectShare",
    "Sample",
    "VowpalWabbit",
    "cut",
    "prediction_columns",
]

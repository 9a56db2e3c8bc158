"""onstream: train a model on a live stream and serve it while it learns."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onstream.client import Client
    from onstream.evolution import Episodes, Evolution, Gym, Policy, Sampler, Strategy
    from onstream.features import EventTime, Group, Id, IdList, Label, Number, Tensor, Weight
    from onstream.feedback import (
        DelayedFeedback,
        ElapsedTimeSampling,
        FakeNegativeCalibrated,
        FakeNegativeWeighted,
        Wait,
        WhenKnown,
    )
    from onstream.job import Job, load_job
    from onstream.learners import Inputs, Keras, River, Torch
    from onstream.streams import (
        ArrowIpc,
        Avro,
        Cache,
        Csv,
        Custom,
        EventPace,
        Feedback,
        Files,
        Join,
        Json,
        Kafka,
        KafkaWriter,
        Libffm,
        Libsvm,
        Log,
        Protobuf,
        Sample,
        VowpalWabbit,
    )
    from onstream.tables import (
        FTRL,
        SGD,
        Adagrad,
        Adam,
        Chance,
        Constant,
        Expire,
        GroupFTRL,
        Normal,
        RowwiseAdagrad,
        SeenTimes,
        Slices,
        Uniform,
    )
    from onstream.trainer import RowFile, WarmStart

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "ArrowIpc",
    "Avro",
    "Cache",
    "Chance",
    "Client",
    "Constant",
    "Csv",
    "Custom",
    "DelayedFeedback",
    "ElapsedTimeSampling",
    "Episodes",
    "EventPace",
    "EventTime",
    "Evolution",
    "Expire",
    "FakeNegativeCalibrated",
    "FakeNegativeWeighted",
    "Feedback",
    "Files",
    "Group",
    "GroupFTRL",
    "Gym",
    "Id",
    "IdList",
    "Inputs",
    "Job",
    "Join",
    "Json",
    "Kafka",
    "KafkaWriter",
    "Keras",
    "Label",
    "Libffm",
    "Libsvm",
    "Log",
    "Normal",
    "Number",
    "Policy",
    "Protobuf",
    "River",
    "RowFile",
    "RowwiseAdagrad",
    "Sample",
    "Sampler",
    "SeenTimes",
    "Slices",
    "Strategy",
    "Tensor",
    "Torch",
    "Uniform",
    "VowpalWabbit",
    "Wait",
    "WarmStart",
    "Weight",
    "WhenKnown",
    "load_job",
]

# Public names are looked up when they are first used: a command that only reads a directory of checkpoints then
# does not wait for PyTorch.
_ROOMS = ("feedback", "features", "tables", "streams", "client", "learners", "evolution", "trainer", "job")

# Late feedback has policies too, which are not those that act.
_ROOM_OF = {"Policy": "evolution"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        for room in (_ROOM_OF[name],) if name in _ROOM_OF else _ROOMS:
            module = import_module(f"onstream.{room}")
            if name in module.__all__:
                globals()[name] = found = getattr(module, name)
                return found
    raise AttributeError(f"module 'onstream' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

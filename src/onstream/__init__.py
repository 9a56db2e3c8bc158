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
    from onstream.streams import Cache, EventPace, Feedback, Files, Join, Kafka, Log, Sample
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

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "Cache",
    "Chance",
    "Client",
    "Constant",
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
    "Kafka",
    "Keras",
    "Label",
    "Log",
    "Normal",
    "Number",
    "Policy",
    "River",
    "RowwiseAdagrad",
    "Sample",
    "Sampler",
    "SeenTimes",
    "Slices",
    "Strategy",
    "Tensor",
    "Torch",
    "Uniform",
    "Wait",
    "Weight",
    "WhenKnown",
    "load_job",
]

# Public names are looked up when they are first used: a command that only reads a directory of checkpoints then
# does not wait for PyTorch.
_ROOMS = ("feedback", "features", "tables", "streams", "client", "learners", "evolution", "job")

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

"""onstream: train a model on a live stream and serve it while it learns."""

from onstream.features import EventTime, Group, Id, IdList, Label, Number, Tensor, Weight
from onstream.job import Job, load_job
from onstream.learners import Inputs, Torch
from onstream.streams import EventPace, Files, Log
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
    "Chance",
    "Constant",
    "EventPace",
    "EventTime",
    "Expire",
    "Files",
    "Group",
    "GroupFTRL",
    "Id",
    "IdList",
    "Inputs",
    "Job",
    "Label",
    "Log",
    "Normal",
    "Number",
    "RowwiseAdagrad",
    "SeenTimes",
    "Slices",
    "Tensor",
    "Torch",
    "Uniform",
    "Weight",
    "load_job",
]

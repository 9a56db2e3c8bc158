"""What columns mean, and how record batches become batches."""

from onstream.features.declarations import (
    Declaration,
    EventTime,
    Feature,
    Group,
    Id,
    IdList,
    Label,
    Number,
    Tensor,
    Weight,
)
from onstream.features.faults import Place
from onstream.features.features import Features
from onstream.features.guess import guess, render
from onstream.features.leaks import leaking

__all__ = [
    "Declaration",
    "EventTime",
    "Feature",
    "Features",
    "Group",
    "Id",
    "IdList",
    "Label",
    "Number",
    "Place",
    "Tensor",
    "Weight",
    "guess",
    "leaking",
    "render",
]

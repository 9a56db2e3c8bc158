"""Embedding tables: rows by key, their optimizers, admission and expiry."""

from onstream.tables.group import TableGroup
from onstream.tables.optimizers import (
    FTRL,
    SGD,
    Adagrad,
    Adam,
    GroupFTRL,
    RowOptimizer,
    RowwiseAdagrad,
    Slices,
)
from onstream.tables.policies import Chance, Constant, Expire, Normal, SeenTimes, Uniform
from onstream.tables.table import Table

__all__ = [
    "FTRL",
    "SGD",
    "Adagrad",
    "Adam",
    "Chance",
    "Constant",
    "Expire",
    "GroupFTRL",
    "Normal",
    "RowOptimizer",
    "RowwiseAdagrad",
    "SeenTimes",
    "Slices",
    "Table",
    "TableGroup",
    "Uniform",
]

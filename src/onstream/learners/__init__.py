"""How a batch becomes predictions and gradients."""

from onstream.learners.exported import ExportedNetwork
from onstream.learners.inputs import Inputs
from onstream.learners.keras import Keras
from onstream.learners.river import River
from onstream.learners.torch import Torch

__all__ = ["ExportedNetwork", "Inputs", "Keras", "River", "Torch"]

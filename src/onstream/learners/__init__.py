"""How a batch becomes predictions and gradients."""

from onstream.learners.inputs import Inputs
from onstream.learners.torch import Torch

__all__ = ["Inputs", "Torch"]

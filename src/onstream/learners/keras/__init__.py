"""Learning with a Keras model, on any of its backends."""

from onstream.learners.keras.learner import Keras

__all__ = ["Keras"]

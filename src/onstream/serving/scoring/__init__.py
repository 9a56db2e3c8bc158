"""Scoring a stream of requests by a model that is followed as it learns."""

from onstream.serving.scoring.scorer import Scored, Scorer
from onstream.serving.scoring.work import LogWork, Piece, Work

__all__ = ["LogWork", "Piece", "Scored", "Scorer", "Work"]
